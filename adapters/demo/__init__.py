"""The demo model that ships with infold: a small LM that knows a made-up world, and how it was made."""

from pathlib import Path

MODEL_PATH: Path = Path(__file__).parent / "model"
"""Where the demo model lies; loads with transformers' `from_pretrained`."""
