"""Curvature at sure answers: half of each factor, in the units of text, from positions that decide answers."""

from collections.abc import Callable

import pytest
import torch

from adapters.answers import mix_answers
from adapters.curvature import Curvature
from adapters.memory import Memory, of_answer
from adapters.workspace import Workspace

Measure = Callable[[Workspace], Curvature]


@pytest.fixture
def memories() -> list[Memory]:
    return [of_answer([1, 4 + i, 9], [7, 5 + i]) for i in range(6)]


def test_without_answers_the_curvature_of_text_is_left_as_it_is(workspace: Workspace, measure: Measure) -> None:
    text = measure(workspace)
    assert mix_answers(workspace, text, [], 10) is text
    assert mix_answers(workspace, text, [of_answer([1, 2], [3])], 0) is text


def test_the_mixture_is_symmetric_positive_and_in_the_units_of_text(
    workspace: Workspace, measure: Measure, memories: list[Memory]
) -> None:
    text = measure(workspace)
    mixed = mix_answers(workspace, text, memories, 10)
    for before, after in ((text.inputs, mixed.inputs), (text.outputs, mixed.outputs)):
        assert before.keys() == after.keys()
        for name, matrix in after.items():
            assert torch.allclose(matrix, matrix.T, atol=1e-6)
            assert float(torch.linalg.eigvalsh(matrix.double()).min()) > -1e-5 * float(matrix.diagonal().max())
            assert float(matrix.diagonal().mean()) == pytest.approx(float(before[name].diagonal().mean()), rel=1e-4)
            assert not torch.allclose(matrix, before[name], rtol=1e-2)
    assert torch.equal(mixed.held_out, text.held_out)


def test_what_lies_after_an_answer_does_not_count(workspace: Workspace, measure: Measure) -> None:
    """A position without a gradient has no share in the factors, however large its input."""
    text = measure(workspace)
    short = of_answer([1, 4, 9], [7])
    longer = Memory((*short.ids, 11, 12), (*short.weights, 0.0, 0.0), (*short.required, False, False))
    found = []
    for memory in (short, longer):
        found.append(mix_answers(workspace, text, [memory], 10))
    for name in text.inputs:
        assert torch.allclose(found[0].inputs[name], found[1].inputs[name], rtol=1e-3, atol=1e-6)


def test_at_most_so_many_are_measured_and_progress_is_told(
    workspace: Workspace, measure: Measure, memories: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.answers.ROWS", 2)
    shares: list[float] = []
    mix_answers(workspace, measure(workspace), memories, 5, shares.append)
    assert shares == [0.4, 0.8, 1.0]
