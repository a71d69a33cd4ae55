"""Rows that join and leave at any time see what they would see alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from adapters.base_model import BaseModel
from service.decode_step import FixedStep
from service.slot_cache import SlotCache

MakeBase = Callable[..., BaseModel]
ROWS, FIRST_COLUMNS = 4, 16


@dataclass
class Batch:
    """Rows of tokens over one cache; every step checks each row against a forward pass of its own."""

    base: BaseModel
    columns: int = FIRST_COLUMNS
    """Few, so that it must grow."""
    fixed: bool = False
    """Whether steps have fixed shapes."""
    rows: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = SlotCache(int(self.base.model.config.num_hidden_layers), ROWS, self.columns)
        self.drawn = torch.Generator().manual_seed(0)

    def token(self) -> int:
        return int(torch.randint(3, self.base.model.config.vocab_size, (), generator=self.drawn))

    def join(self, *lengths: int) -> None:
        """Read prompts of these lengths in one left-padded batch."""
        prompts = [[self.token() for _ in range(length)] for length in lengths]
        width, read = max(lengths), DynamicCache()
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.base.model(ids, attention_mask=mask, position_ids=positions, past_key_values=read, use_cache=True)
        for row, prompt in enumerate(prompts):
            self.cache.join(read, row, len(prompt))
            self.rows.append(prompt)

    def step(self) -> None:
        if not self.rows:
            return
        for row in self.rows:
            row.append(self.token())
        for row, logits in zip(self.rows, self._fixed() if self.fixed else self._launched(), strict=True):
            alone = self.base.model(torch.tensor([row]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, alone, atol=1e-6, rtol=1e-6)

    def _fixed(self) -> Tensor:
        """As a graph is recorded, with rows to spare."""
        self.cache.reserve(1)
        step = FixedStep(self.base, self.cache, ROWS)
        step.feed([row[-1] for row in self.rows])
        logits = step.run()
        self.cache.after_step()
        assert logits.isfinite().all()
        return logits[: len(self.rows)]

    def _launched(self) -> Tensor:
        mask, positions = self.cache.before_step(torch.device("cpu"))
        assert mask.sum(-1).tolist() == [len(row) for row in self.rows]
        assert positions[:, 0].tolist() == [len(row) - 1 for row in self.rows]
        ids = torch.tensor([row[-1:] for row in self.rows])
        out = self.base.model(ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True)
        self.cache.after_step()
        logits: Tensor = out.logits[:, -1]
        return logits

    def leave(self, row: int) -> None:
        self.cache.leave(row)
        self.rows[row] = self.rows[-1]
        self.rows.pop()


@pytest.fixture(scope="module")
def llama(tiny: MakeBase) -> BaseModel:
    return tiny("llama")


Events = list[tuple[Sequence[int], int, int]]
"""Prompt lengths that join, steps then made, the row that leaves then."""


@settings(max_examples=30)
@given(st.lists(st.tuples(st.lists(st.integers(1, 30), max_size=2), st.integers(0, 6), st.integers(0, ROWS)), max_size=8))
@example([([3], 40, 0), ([50], 3, 0)])
@example([([2, 30], 0, 1), ([1], 2, 0), ([40], 5, 9)])
@example([([5], 20, 9), ([4], 1, 0), ([3], 60, 9)])
@pytest.mark.parametrize("fixed", [False, True])
def test_every_row_sees_its_own_tokens_and_no_other(llama: BaseModel, fixed: bool, happenings: Events) -> None:
    batch = Batch(llama, fixed=fixed)
    with torch.inference_mode():
        for lengths, steps, leaving in happenings:
            fitting = lengths[: ROWS - len(batch.rows)]
            if fitting:
                batch.join(*fitting)
            for _ in range(steps):
                batch.step()
            if leaving < len(batch.rows):
                batch.leave(leaving)


def test_columns_that_nobody_needs_any_more_are_used_again(llama: BaseModel) -> None:
    batch = Batch(llama, columns=64)
    with torch.inference_mode():
        batch.join(2)
        for _ in range(30):  # one row always runs, so the clock never stops
            batch.join(3)
            for _ in range(8):
                batch.step()
            batch.leave(0)
    assert batch.cache.columns == 64


def test_the_buffer_grows_to_twice_what_is_needed(llama: BaseModel) -> None:
    batch = Batch(llama, columns=8)
    with torch.inference_mode():
        batch.join(6)
        for _ in range(30):
            batch.step()
        assert 36 <= batch.cache.columns < 2 * 37 + 8


def test_an_empty_cache_starts_again_at_its_first_column(llama: BaseModel) -> None:
    batch = Batch(llama)
    with torch.inference_mode():
        for length in (5, 14, 1):
            batch.join(length)
            batch.step()
            assert (batch.cache.starts, batch.cache.end) == ([0], length + 1)
            batch.leave(0)
            assert batch.cache.running == batch.cache.end == 0


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "gemma3_text", "mistral", "qwen3"])
def test_other_architectures_see_the_same_also_beyond_a_sliding_window(tiny: MakeBase, kind: str) -> None:
    batch = Batch(tiny(kind))
    with torch.inference_mode():
        batch.join(3, 20)
        for _ in range(12):
            batch.step()
        batch.join(30)
        batch.step()
        batch.leave(0)
        for _ in range(3):
            batch.step()
