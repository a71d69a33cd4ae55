"""Prompts that are read together, in chunks, from what is known of them: as if each had been read alone and at once."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base_model import BaseModel
from service.prefixes import Prefix
from service.reading import MOST_TOKENS, Prompt, Reading, ReadingPace, unread

MakeBase = Callable[..., BaseModel]
ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "opt", "gemma3_text", "mistral", "qwen3"]


def prompt(base: BaseModel, length: int, seed: int) -> Prompt:
    drawn = torch.randint(3, base.model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


def read(base: BaseModel, prompts: Sequence[Prompt], prefixes: Sequence[Prefix | None], chunk: int) -> tuple[Reading, torch.Tensor]:
    reading = Reading(base, prompts, prefixes)
    with torch.inference_mode():
        logits = reading.read(chunk)
        while not reading.done:
            logits = reading.read(chunk)
    return reading, logits


def known(base: BaseModel, tokens: Prompt, length: int) -> Prefix | None:
    """What an earlier prompt that goes on otherwise has left."""
    if not length:
        return None
    earlier, _ = read(base, [(*tokens[:length], 5, 6)], [None], 999)
    return Prefix(length, [(keys[None], values[None]) for keys, values in earlier.layers(0)], [0])


def check(base: BaseModel, shapes: Sequence[tuple[int, int]], chunk: int) -> None:
    """shapes: (length, known of it) of each prompt."""
    prompts = [prompt(base, length, seed) for seed, (length, _) in enumerate(shapes)]
    prefixes = [known(base, p, min(length, len(p) - 1)) for p, (_, length) in zip(prompts, shapes, strict=True)]
    reading, logits = read(base, prompts, prefixes, chunk)
    for row, tokens in enumerate(prompts):
        alone, expected = read(base, [tokens], [None], 999)
        torch.testing.assert_close(logits[row], expected[0], atol=1e-6, rtol=1e-6)
        for mine, theirs in zip(reading.layers(row), alone.layers(0), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [1, 7, 999])
def test_every_architecture_reads_chunks_and_goes_on_from_what_is_known(kind: str, chunk: int, tiny: MakeBase) -> None:
    check(tiny(kind), [(40, 32), (25, 0), (3, 2), (36, 16)], chunk)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=4), st.integers(1, 50))
def test_no_prompt_changes_another(tiny: MakeBase, shapes: list[tuple[int, int]], chunk: int) -> None:
    check(tiny("llama"), shapes, chunk)


def test_what_is_known_of_all_prompts_is_not_read_again(tiny: MakeBase) -> None:
    base = tiny("llama")
    prompts = [prompt(base, 40, 1), prompt(base, 50, 2)]
    prefixes = [known(base, prompts[0], 32), known(base, prompts[1], 48)]
    assert unread(prompts, prefixes) == 8
    columns: list[int] = []
    with base.model.register_forward_pre_hook(lambda _, args: columns.append(args[0].shape[1])):
        read(base, prompts, prefixes, 5)
    assert columns == [5, 3]


def test_chunks_become_as_large_as_the_time_allows(tiny: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("service.reading.time.perf_counter", lambda: now[0])
    base, pace = tiny("llama"), ReadingPace(0.05)
    for cost, expected in ((0.001, 50), (1e-9, MOST_TOKENS)):
        for _ in range(40):
            reading = Reading(base, [prompt(base, 400, 0)], [None])
            with pace.chunk(reading, beside=1) as columns, torch.inference_mode():
                reading.read(min(columns, 4))
                now[0] += 4 * cost
        assert columns == pytest.approx(expected, rel=0.05)
    reading = Reading(base, [prompt(base, 4, 0)] * 2, [None] * 2)
    with pace.chunk(reading, beside=0) as columns, torch.inference_mode():
        reading.read(columns)
    assert columns == MOST_TOKENS // 2
