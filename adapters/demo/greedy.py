"""Greedy answers of a causal LM to many prompts at once.

Covered: loading, batching by length, left padding, cutting off the prompt. Not covered: which prompts to put
and what is right (`evaluate.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Greedy:
    """A model and its tokenizer; `rows` prompts are answered together."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    rows: int = 64

    @classmethod
    def load(cls, path: Path) -> "Greedy":
        """The model at `path` in float32, as it is served on a CPU."""
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cls(model.eval(), AutoTokenizer.from_pretrained(path))

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What the model writes after each prompt (`<s>` is put before it), special tokens left out."""
        return self._written([self.tokenizer(prompt)["input_ids"] for prompt in prompts], max_new_tokens)

    def chat_answers(self, messages: Sequence[str], max_new_tokens: int) -> list[str]:
        """What the model replies to each user message through its chat template."""
        chats = [[{"role": "user", "content": message}] for message in messages]
        encoded: Any = self.tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
        return self._written(encoded["input_ids"], max_new_tokens)

    def _written(self, encoded: list[list[int]], max_new_tokens: int) -> list[str]:
        """Decoded continuations, in the order of `encoded`."""
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        written = [""] * len(encoded)
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            texts = self._batch([encoded[index] for index in chosen], max_new_tokens)
            for index, text in zip(chosen, texts, strict=True):
                written[index] = text
        return written

    @torch.inference_mode()
    def _batch(self, encoded: list[list[int]], max_new_tokens: int) -> list[str]:
        """Continuations of one batch, padded on the left to (rows, length)."""
        length = max(map(len, encoded))
        padding = [length - len(ids) for ids in encoded]
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * missing + row for missing, row in zip(padding, encoded, strict=True)])
        mask = torch.tensor([[0] * missing + [1] * (length - missing) for missing in padding])
        written = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
        texts: list[str] = self.tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
        return texts
