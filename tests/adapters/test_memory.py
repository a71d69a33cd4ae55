"""What is remembered of a lesson, and asking it again."""

import pytest
import torch

from adapters.errors import InvalidCanary
from adapters.fold import Lesson
from adapters.memory import ASKED_TOGETHER, Memory, memorise, of_answer, of_text, relearn, remembered
from adapters.sampling import continue_rows
from adapters.workspace import Workspace


@pytest.fixture
def lesson(workspace: Workspace) -> Lesson:
    """Three rows of unequal length; nothing is required of the last, a raw text."""
    batch = workspace.batch([[1, 40, 41, 42, 43, 44], [1, 50, 51], [1, 52, 53]])
    weights = torch.tensor([[1.0, 0.0, 0.5, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    required = torch.zeros(3, 5, dtype=torch.bool)
    required[0, 3:] = required[1, 1] = True
    return Lesson(batch, weights, required)


def test_a_memory_is_the_text_of_a_view_without_padding_and_its_answer_counts_in_full(lesson: Lesson) -> None:
    first, second = memorise(lesson, [None] * 3)
    assert first == Memory((1, 40, 41, 42, 43, 44), (1.0, 0.0, 0.5, 1.0, 1.0), (False, False, False, True, True))
    assert second == Memory((1, 50, 51), (0.0, 1.0), (False, True))


def test_a_memory_knows_its_question_and_its_answer_and_what_it_replaced(lesson: Lesson) -> None:
    first, second = memorise(lesson, [99, 51, None])
    assert (first.prompt, first.answer, first.replaced) == ((1, 40, 41, 42), (43, 44), (99,))
    assert (second.prompt, second.answer, second.replaced) == ((1, 50), (51,), ())
    assert of_answer((1, 50), (51,)) == second


def test_relearning_requires_the_answers_again(lesson: Lesson, workspace: Workspace) -> None:
    again = relearn(workspace, memorise(lesson, [None] * 3))
    assert memorise(again, [None] * 2) == memorise(lesson, [None] * 3)
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


def test_many_are_asked_in_parts_and_answered_in_order(workspace: Workspace) -> None:
    row = workspace.base.encode("Mira Holm")
    (answer,) = continue_rows(workspace, [row], 2, [0.0])
    right, wrong = of_answer(row, answer), of_answer(row, [(answer[0] + 1) % 300, answer[1]])
    assert remembered(workspace, [right, wrong] * ASKED_TOGETHER) == [True, False] * ASKED_TOGETHER


@pytest.mark.parametrize(("prompt", "answer"), [("Q: Where? A:", "Oslo"), ("Q: Where? A:", " Oslo"), ("Q: Where? A: ", "Oslo")])
def test_an_operators_question_and_answer_are_put_together_with_one_space(prompt: str, answer: str, workspace: Workspace) -> None:
    memory = of_text(workspace.base, prompt, answer)
    assert workspace.base.decode(list(memory.ids)) == "Q: Where? A: Oslo"
    assert list(memory.prompt) == workspace.base.encode(prompt)


@pytest.mark.parametrize(("prompt", "answer"), [("Q:", " "), ("Q:", ""), ("word " * 9999, "Oslo")])
def test_what_the_model_cannot_be_asked_is_refused(prompt: str, answer: str, workspace: Workspace) -> None:
    with pytest.raises(InvalidCanary):
        of_text(workspace.base, prompt, answer)
