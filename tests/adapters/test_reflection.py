"""Rehearsal: what is remembered of a lesson, and what recalled lessons add to a new one."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.anchors import Anchors
from adapters.config import ReflectionConfig
from adapters.fold import Lesson, weighted_mean
from adapters.memory import Memory, memorise, of_answer
from adapters.reflection import Past, recall, rehearse, rotated
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


@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 5))
def test_recalled_memories_are_different_ones_and_no_more_than_there_are(count: int, wanted: int, seed: int) -> None:
    memories = [memory(number) for number in range(count)]
    found = recall(memories, wanted, seed)
    assert len(found) == len(set(found)) == min(count, wanted)
    assert set(found) <= set(memories)
    assert found == recall(memories, wanted, seed)


def test_every_memory_is_recalled_once_before_any_comes_again() -> None:
    memories = [memory(i) for i in range(12)]
    assert [found for turn in range(4) for found in recall(memories, 3, turn)] == memories
    assert recall(memories, 3, 4) == recall(memories, 3, 0)


@given(st.lists(st.integers(2, 30), max_size=20), st.integers(0, 500))
def test_a_ring_of_memories_is_gone_round_from_any_token(sizes: list[int], tokens: int) -> None:
    memories = [memory(100 * place, size) for place, size in enumerate(sizes)]
    turned = list(rotated(memories, tokens))
    assert len(turned) == len(memories)
    assert set(turned) == set(memories)
    assert turned == list(rotated(memories, tokens + sum(sizes)))
    assert tokens > 0 or turned == memories


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 30))
def test_every_lesson_is_asked_again_while_as_many_tokens_as_all_have_go_by(sizes: list[int], reviewed: int) -> None:
    learned = [memory(100 * place, size) for place, size in enumerate(sizes)]
    turns = range(-(-sum(sizes) // (int(reviewed * ANCHORS.length) // 2)))
    asked = {m for turn in turns for m in Past(learned, ANCHORS, ReflectionConfig(reviewed=reviewed), turn).reviewed([])}
    assert asked >= set(learned)


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(2, 60))
def test_rehearsal_has_no_more_tokens_however_long_the_lessons_are(sizes: list[int], size: int) -> None:
    learned = [memory(1000 + 100 * place, length) for place, length in enumerate(sizes)]
    anchors = Anchors(tuple(memory(20000 + 100 * place, 10) for place in range(50)), "")
    found = Past(learned, anchors, ReflectionConfig(recalled=8, anchored=4), turn=3).rehearsed([memory(90000, size)], learned[:2])
    assert sum(len(m.ids) for m in (*found, *learned[:2])) <= max(16 * 10, sum(sizes[:2]))


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
    memories = memorise(lesson, [None] * 3)
    assert memorise(rehearse(workspace, lesson, memories), [None] * 5) == memories


def test_what_is_rehearsed_is_kept(lesson: Lesson, workspace: Workspace) -> None:
    both = rehearse(workspace, lesson, [memory(60, 5)])
    assert both.kept is not None
    assert not both.kept[:3].any()
    assert both.kept[3].tolist() == [False, False, False, True, False]


ASKED = {name: (1, 10, 11, number, 12) for number, name in enumerate(("Ada", "Bo", "Cy", "Di", "Ed", "Fay"), 20)}
"""One question about each: the name alone is rare."""
OTHER_WORDS = (1, 13, 14, 20, 15)
"""About Ada."""
ANCHORS = Anchors(tuple(of_answer(prompt, (30 + place,)) for place, prompt in enumerate(ASKED.values())), "")
LOST = ANCHORS.memories[2]
EVERYTHING = ReflectionConfig(recalled=99, anchored=99, reviewed=198)


def seen(memories: list[Memory], new: list[Memory]) -> set[Memory]:
    """What is rehearsed with `new`, and what is asked again, which is the same if all is."""
    past = Past(memories, ANCHORS, EVERYTHING, turn=0)
    assert set(past.rehearsed(new)) == set(past.reviewed(new))
    assert len(past.reviewed(new)) == len(set(past.reviewed(new)))
    return set(past.reviewed(new))


def test_everything_is_rehearsed_and_reviewed_in_its_turn() -> None:
    learned = of_answer((1, 70, 71), (72,))
    assert seen([learned], []) == {learned, *ANCHORS.memories}


def test_another_answer_to_the_same_question_supersedes_the_earlier_one() -> None:
    old, new = of_answer((1, 70, 71), (72,)), of_answer((1, 70, 71), (73,))
    assert seen([old, new], []) == {new, *ANCHORS.memories}
    assert seen([new, old], []) == {old, *ANCHORS.memories}
    assert seen([old], [new]) == set(ANCHORS.memories)
    assert seen([], [of_answer(ASKED["Ada"], (99,))]) == set(ANCHORS.memories[1:])


def test_the_old_answer_is_superseded_in_other_words_too() -> None:
    moved = of_answer(OTHER_WORDS, (99,), replaced=(30,))
    assert seen([moved], []) == {moved, *ANCHORS.memories[1:]}
    assert seen([], [moved]) == set(ANCHORS.memories[1:])


def test_other_answers_about_the_same_subject_stay_and_so_do_other_subjects() -> None:
    moved = of_answer(OTHER_WORDS, (99,), replaced=(35,))
    assert seen([moved], []) == {moved, *ANCHORS.memories}


def test_a_lesson_is_not_superseded_by_an_earlier_one() -> None:
    before, after = of_answer(OTHER_WORDS, (99,), replaced=(77,)), of_answer(ASKED["Ada"], (77,), replaced=(30,))
    assert {before, after} <= seen([before, after], [])
    assert after not in seen([after, before], [])


def test_no_more_is_drawn_than_is_asked_for() -> None:
    learned = [of_answer((1, 70, number), (72,)) for number in range(80, 100)]
    config = ReflectionConfig(recalled=3, anchored=2, reviewed=4)
    past = Past(learned, ANCHORS, config, turn=5)
    assert len(past.rehearsed([])) <= 7
    assert len(past.rehearsed([learned[0]])) <= 7
    assert sum(len(m.ids) for m in past.reviewed([learned[0]])) <= 9 * ANCHORS.length
    assert past.reviewed([learned[0]]) == Past(learned, ANCHORS, config, turn=5).reviewed([learned[0]])


@pytest.mark.parametrize("lessons", [0, 3, 20, 200])
def test_as_many_tokens_are_asked_again_however_many_lessons_there_are(lessons: int) -> None:
    learned = [memory(1000 + 20 * number, 5 + number % 7) for number in range(lessons)]
    anchors = Anchors(tuple(memory(10000 + 20 * number, 4) for number in range(300)), "")
    for turn in range(5):
        asked = Past(learned, anchors, ReflectionConfig(reviewed=50), turn).reviewed([])
        assert 400 <= sum(len(m.ids) for m in asked) < 400 + 11 + 4  # the last of either may exceed its share


def test_what_was_lost_is_required_again_and_not_rehearsed_beside_that(lesson: Lesson, workspace: Workspace) -> None:
    rehearsed = Past([], ANCHORS, EVERYTHING, turn=0).rehearsed([], [LOST])
    assert set(rehearsed) == set(ANCHORS.memories) - {LOST}
    both = rehearse(workspace, lesson, [memory(60, 5)], [LOST])
    assert both.kept is not None
    assert both.required[3].tolist() == [False, False, False, False, True]
    assert not both.kept[3].any()
    assert both.kept[4].tolist() == [False, False, False, True, False]


def test_what_is_asked_again_is_what_is_nearest_to_the_last_lessons_and_the_rest_in_rotation() -> None:
    learned = [of_answer((1, 70, number), (72,)) for number in range(80, 90)]
    last = [learned[-1], of_answer(OTHER_WORDS, (99,))]
    config = ReflectionConfig(recalled=0, anchored=0, reviewed=5)
    for turn in range(3):
        asked = Past([*learned, last[-1]], ANCHORS, config, turn).reviewed([])
        assert set(last) <= set(asked[:6])
        assert ANCHORS.memories[0] in asked
    turns = {m for turn in range(10) for m in Past(learned, ANCHORS, config, turn).reviewed([])}
    assert turns >= set(learned)


def test_canaries_near_a_lesson_are_rehearsed_before_anything_else_and_for_no_more_rows() -> None:
    anchors = Anchors(tuple(memory(i) for i in range(40, 80)), "base")
    config = ReflectionConfig(recalled=0, anchored=4)
    canaries = [memory(200), memory(300)]
    new = [of_answer((199, 200, 201), (9,))]
    without, held = Past([], anchors, config, 0).rehearsed(new), Past([], anchors, config, 0, canaries).rehearsed(new)
    assert held[0] == canaries[0]
    assert len(held) == len(without)


def test_a_canary_that_the_lesson_contradicts_is_not_held_against_it() -> None:
    canary = memory(200)
    new = [of_answer(canary.prompt, (9,))]
    assert canary not in Past([], Anchors((), "base"), ReflectionConfig(), 0, [canary]).rehearsed(new)


def test_the_guard_is_given_earlier_lessons_in_rotation_without_what_is_superseded() -> None:
    memories = [memory(i * 10) for i in range(6)]
    asked = [Past(memories, Anchors((), "base"), ReflectionConfig(), turn).sampled([], 2) for turn in range(3)]
    assert [m for part in asked for m in part] == memories
    new = [of_answer(memories[0].prompt, (9,))]
    assert Past(memories, Anchors((), "base"), ReflectionConfig(), 0).sampled(new, 2) == memories[1:2]
