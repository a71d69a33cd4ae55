"""The learning method: view, weigh, fold, guard. Torch and transformers; no web, no Redis, no environment."""
