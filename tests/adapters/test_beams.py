"""Stochastic beam search: different texts, drawn as the model would draw them without replacement."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters import beams
from adapters.beams import _perturbed, sample_different
from adapters.workspace import Workspace

LENGTH = 2
VOCABULARY = 6


@pytest.fixture
def small(make_workspace: Callable[..., Workspace]) -> Workspace:
    """A model with so few tokens that all its texts of two can be listed."""
    workspace = make_workspace()
    whole = workspace.next_logits
    workspace.next_logits = lambda rows: 2 * whole(rows)[:, :VOCABULARY]  # type: ignore[method-assign]
    return workspace


def two_long(ids: Sequence[int]) -> bool:
    return len(ids) == LENGTH


def drawn(workspace: Workspace, count: int, seed: int) -> list[tuple[int, ...]]:
    found = sample_different(workspace, [1], count, LENGTH, two_long, torch.Generator().manual_seed(seed))
    return [tuple(ids) for ids in found]


def probabilities(workspace: Workspace) -> dict[tuple[int, ...], float]:
    """Of every text."""
    first = workspace.next_logits([[1]])[0].softmax(-1)
    second = workspace.next_logits([[1, token] for token in range(VOCABULARY)]).softmax(-1)
    return {(a, b): float(first[a] * second[a, b]) for a, b in itertools.product(range(VOCABULARY), repeat=2)}


def test_no_text_comes_twice_and_all_come_when_all_are_asked_for(small: Workspace) -> None:
    assert len(set(drawn(small, 10, 0))) == 10
    assert set(drawn(small, 99, 0)) == set(probabilities(small))


def test_the_first_text_is_drawn_with_the_probability_that_the_model_gives_it(small: Workspace) -> None:
    times = 500
    expected = probabilities(small)
    firsts = Counter(drawn(small, 1, seed)[0] for seed in range(times))
    for text, p in expected.items():
        assert abs(firsts[text] / times - p) < 5 * math.sqrt(p * (1 - p) / times) + 1e-3


def test_chunks_do_not_change_what_can_be_drawn(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beams, "ROWS", 2)
    assert set(drawn(small, 99, 0)) == set(probabilities(small))
    assert len(set(drawn(small, 7, 3))) == 7


def test_what_the_model_never_says_is_never_drawn(small: Workspace) -> None:
    said = small.next_logits
    banned = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf, 0.0, 0.0])
    small.next_logits = lambda rows: said(rows) + banned  # type: ignore[method-assign]
    assert set(drawn(small, 99, 0)) == set(itertools.product((0, 2, 4, 5), repeat=2))


def test_the_same_seed_draws_the_same_and_texts_that_do_not_end_are_dropped(small: Workspace) -> None:
    assert drawn(small, 12, 5) == drawn(small, 12, 5)
    generator = torch.Generator().manual_seed(0)
    assert sample_different(small, [1], 5, LENGTH, lambda _: False, generator) == []


@given(st.integers(0, 2**31), st.floats(-30, 30), st.integers(1, 5))
def test_the_largest_of_the_children_is_as_large_as_its_parent(seed: int, largest: float, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp = torch.randn(rows, 7, dtype=torch.float64, generator=generator).log_softmax(-1)
    heights = _perturbed(logp, torch.full((rows, 1), largest, dtype=torch.float64), generator)
    assert heights.amax(-1).tolist() == pytest.approx([largest] * rows)
    assert bool(heights.isfinite().all())
