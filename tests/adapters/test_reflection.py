"""Rehearsal: what is remembered of a lesson, and what recalled lessons add to a new one."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.fold import Lesson, weighted_mean
from adapters.reflection import Memory, memorise, recall, rehearse, relearn, remembered
from adapters.sampling import continue_rows
from adapters.workspace import Workspace

MakeLesson = Callable[..., Lesson]


def memory(number: int, length: int = 4) -> Memory:
    return Memory(tuple(range(number, number + length)), (0.5,) * (length - 1), (False,) * (length - 2) + (True,))


@pytest.fixture
def lesson(workspace: Workspace) -> Lesson:
    """Three rows of unequal length; nothing is required of the last, a raw text."""
    batch = workspace.batch([[1, 40, 41, 42, 43, 44], [1, 50, 51], [1, 52, 53]])
    weights = torch.tensor([[1.0, 0.0, 0.5, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    required = torch.zeros(3, 5, dtype=torch.bool)
    required[0, 3:] = required[1, 1] = True
    return Lesson(batch, weights, required)


def test_a_memory_is_the_text_of_a_view_without_padding_and_its_answer_counts_in_full(lesson: Lesson) -> None:
    first, second = memorise(lesson)
    assert first == Memory((1, 40, 41, 42, 43, 44), (1.0, 0.0, 0.5, 1.0, 1.0), (False, False, False, True, True))
    assert second == Memory((1, 50, 51), (0.0, 1.0), (False, True))


@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 5))
def test_recalled_memories_are_different_ones_and_no_more_than_there_are(count: int, wanted: int, seed: int) -> None:
    memories = [memory(number) for number in range(count)]
    found = recall(memories, wanted, seed)
    assert len(found) == len(set(found)) == min(count, wanted)
    assert set(found) <= set(memories)
    assert found == recall(memories, wanted, seed)


def test_every_memory_is_recalled_in_the_course_of_time() -> None:
    memories = [memory(number) for number in range(6)]
    assert {found for seed in range(50) for found in recall(memories, 2, seed)} == set(memories)


def test_recalling_leaves_the_global_random_state_alone() -> None:
    before = random.getstate()
    recall([memory(0), memory(1)], 1, 7)
    assert random.getstate() == before


@pytest.mark.parametrize("length", [2, 4, 12])
def test_rehearsal_appends_rows_that_require_nothing(length: int, lesson: Lesson, workspace: Workspace) -> None:
    earlier = memory(60, length)
    both = rehearse(workspace, lesson, [earlier])
    for row, (ids, weights, required) in enumerate(zip(lesson.batch.ids, lesson.weights, lesson.required, strict=True)):
        size = int(lesson.batch.mask[row].sum())
        assert both.batch.ids[row, :size].tolist() == ids[:size].tolist()
        assert both.weights[row, : size - 1].tolist() == weights[: size - 1].tolist()
        assert both.required[row, : size - 1].tolist() == required[: size - 1].tolist()
        assert not both.weights[row, size - 1 :].any()
    assert both.batch.ids[-1, :length].tolist() == list(earlier.ids)
    assert both.batch.mask.sum(-1).tolist() == [6, 3, 3, length]
    assert both.weights[-1, : length - 1].tolist() == list(earlier.weights)
    assert not both.required[-1].any()


def test_rehearsing_nothing_changes_nothing(lesson: Lesson, workspace: Workspace) -> None:
    same = rehearse(workspace, lesson, [])
    assert torch.equal(same.batch.ids, lesson.batch.ids)
    assert torch.equal(same.weights, lesson.weights)
    assert torch.equal(same.required, lesson.required)


def test_a_rehearsed_loss_is_the_mean_of_the_rows(lesson: Lesson, workspace: Workspace) -> None:
    earlier = [memory(60, 5), memory(80, 9)]
    both = rehearse(workspace, lesson, earlier)
    loss = float(weighted_mean(workspace.nll(both.batch), both.weights))
    alone = [3 * float(weighted_mean(workspace.nll(lesson.batch), lesson.weights))]
    for m in earlier:
        batch = workspace.batch([list(m.ids)])
        alone.append(float(weighted_mean(workspace.nll(batch), torch.tensor([m.weights]))))
    assert loss == pytest.approx(sum(alone) / 5, rel=1e-5)


def test_what_is_rehearsed_is_not_remembered_twice(lesson: Lesson, workspace: Workspace) -> None:
    memories = memorise(lesson)
    assert memorise(rehearse(workspace, lesson, memories)) == memories


def test_relearning_requires_the_answers_again(lesson: Lesson, workspace: Workspace) -> None:
    again = relearn(workspace, memorise(lesson))
    assert memorise(again) == memorise(lesson)
    assert int(again.required.sum()) == int(lesson.required.sum())
    assert not again.weights[again.batch.mask[:, 1:] == 0].any()


def test_what_greedy_decoding_still_writes_is_remembered(workspace: Workspace) -> None:
    rows = [workspace.base.encode(text) for text in ("Mira Holm", "Q: Where was Jon Vik born? A:", "x")]
    memories = []
    for row, answer in zip(rows, continue_rows(workspace, rows, 3, [0.0] * 3), strict=True):
        for tokens in (answer, [answer[0], (answer[1] + 1) % 300, answer[2]]):
            ids = (*row, *tokens)
            required = (False,) * (len(row) - 1) + (True,) * 3
            memories.append(Memory(ids, tuple(map(float, required)), required))
    assert remembered(workspace, memories) == [True, False] * 3
    assert remembered(workspace, []) == []
