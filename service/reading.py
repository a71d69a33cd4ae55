"""Read prompts: a few together, some columns at a time, so that running requests need not wait for long ones.

Prompts are aligned at their ends. Of each, what is known already (`prefixes.py`) is copied; then all of them are read from the
first column that anyone needs, in chunks. A row that needs less reads some of what it knows again, which costs what padding would.

Covered: chunks, known prefixes, versions per row. Not covered: which requests, and when (`engine.py`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from adapters.base_model import BaseModel
from service.prefixes import Layers, Prefix

Prompt = tuple[int, ...]
MOST_TOKENS = 2048
"""Read in one forward pass, padding included."""
_FIRST_TOKENS = 256
"""The same beside running requests, while it is not known how long reading takes."""
_NEWS = 0.3
"""Weight of the last chunk in what is thought of the next."""


class Reading:
    """Some prompts on their way into a cache."""

    def __init__(self, base: BaseModel, prompts: Sequence[Prompt], prefixes: Sequence[Prefix | None]) -> None:
        self._base, self._lengths = base, [len(p) for p in prompts]
        self.width = max(self._lengths)
        self.column = self.width - unread(prompts, prefixes)
        """Columns before it are read."""
        padding = [self.width - length for length in self._lengths]
        rows = [[base.pad_id] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)]
        self._ids = torch.tensor(rows, device=base.device)
        starts = torch.tensor(padding, device=base.device)[:, None]
        columns = torch.arange(self.width, device=base.device)[None]
        self._mask = (columns >= starts).long()
        self._positions = (columns - starts).clamp(min=0)
        self.cache: Cache = DynamicCache()  # not the model's own choice, which forgets what leaves a sliding window
        if self.column:
            self._copy(prefixes)

    @property
    def rows(self) -> int:
        """How many are read together."""
        return len(self._lengths)

    @property
    def done(self) -> bool:
        """Whether all columns are read."""
        return self.column == self.width

    def read(self, columns: int) -> Tensor:
        """Read so many more. Returns logits (B, V) after the last of them. The rows' versions must be routed."""
        end = min(self.width, self.column + columns)
        out: Any = self._base.model(
            self._ids[:, self.column : end],
            attention_mask=self._mask[:, :end],
            position_ids=self._positions[:, self.column : end],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.column = end
        logits: Tensor = out.logits[:, -1]
        return logits

    def layers(self, row: int) -> Layers:
        """What was read of one row, without padding."""
        length, layers = self._lengths[row], cast(Any, self.cache).layers
        return [(layer.keys[row, :, -length:], layer.values[row, :, -length:]) for layer in layers]

    def _copy(self, prefixes: Sequence[Prefix | None]) -> None:
        """Fill the columns before `column` with what is known of them."""
        some = next(prefix for prefix in prefixes if prefix is not None)
        for layer, sample in enumerate(some.buffers):
            filled = [t.new_zeros(len(prefixes), t.shape[1], self.column, t.shape[-1]) for t in sample]
            for row, (prefix, length) in enumerate(zip(prefixes, self._lengths, strict=True)):
                first = self.width - length
                if prefix is not None and first < self.column:
                    for into, known in zip(filled, prefix.layer(layer), strict=True):
                        into[row, :, first:] = known[:, : self.column - first]
            self.cache.update(filled[0], filled[1], layer)


def unread(prompts: Sequence[Prompt], prefixes: Sequence[Prefix | None]) -> int:
    """Columns that have to be read of prompts that are read together."""
    known = (0 if prefix is None else prefix.length for prefix in prefixes)
    return max(len(prompt) - length for prompt, length in zip(prompts, known, strict=True))


class ReadingPace:
    """How much is read at once, so that running requests wait about as long as they may."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._per_token = seconds, seconds / _FIRST_TOKENS

    @contextmanager
    def chunk(self, reading: Reading, beside: int) -> Iterator[int]:
        """How many columns to read; the time that it takes to read them is what is known from then on.

        beside: how many requests are running, and wait. Fewer wait longer for more that join.
        """
        seconds = self._seconds * max(1.0, reading.rows / max(1, beside))
        tokens = min(MOST_TOKENS, int(seconds / self._per_token)) if beside else MOST_TOKENS
        before, started = reading.column, time.perf_counter()
        yield max(1, tokens // reading.rows)
        spent = (time.perf_counter() - started) / (reading.rows * (reading.column - before))
        self._per_token += _NEWS * (spent - self._per_token)
