"""Continuing texts: the learner's own decoding against transformers' `generate`."""

from collections.abc import Callable

import pytest
import torch

from adapters.base_model import BaseModel
from adapters.sampling import continue_rows
from adapters.targets import DOWN_PROJECTIONS
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
TEXTS = ["Mira Holm was born in", "Q:", "News: Jon Vik was born in Graz. Q: Where"]


def greedy(base: BaseModel, row: list[int], count: int) -> list[int]:
    ids = torch.tensor([row])
    out = base.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=[], pad_token_id=0
    )
    return out[0, len(row) :].tolist()


@pytest.mark.parametrize("kind", sorted(DOWN_PROJECTIONS))
def test_greedy_rows_of_unequal_length_are_what_generate_writes_of_each_alone(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind)
    rows = [workspace.base.encode(text) for text in TEXTS]
    assert continue_rows(workspace, rows, 8, [0.0] * len(rows)) == [greedy(workspace.base, row, 8) for row in rows]


def test_a_row_ends_before_its_stop_id_and_the_others_go_on(workspace: Workspace) -> None:
    rows = [workspace.base.encode(text) for text in TEXTS]
    free = continue_rows(workspace, rows, 10, [0.0] * 3)
    stop = free[0][4]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert continue_rows(workspace, rows, 10, [0.0] * 3, {stop}) == expected
    assert expected[0] != free[0]


def test_a_row_may_end_at_once(workspace: Workspace) -> None:
    row = workspace.base.encode(TEXTS[0])
    first = continue_rows(workspace, [row], 1, [0.0])[0][0]
    assert continue_rows(workspace, [row], 5, [0.0], {first}) == [[]]


def test_sampling_beside_it_does_not_change_a_greedy_row(workspace: Workspace) -> None:
    rows = [workspace.base.encode(TEXTS[0])] * 3
    out = continue_rows(workspace, rows, 8, [0.0, 5.0, 5.0])
    assert out[0] == continue_rows(workspace, rows[:1], 8, [0.0])[0]
    assert out[1] != out[2]


def test_sampled_tokens_follow_the_distribution_of_the_model(workspace: Workspace) -> None:
    row, count = workspace.base.encode(TEXTS[0]), 4000
    probabilities = workspace.logits(workspace.batch([row]))[0, -1].softmax(-1)
    drawn = torch.tensor(continue_rows(workspace, [row] * count, 1, [1.0] * count)).flatten()
    frequencies = torch.bincount(drawn, minlength=len(probabilities)) / count
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequencies - probabilities).abs() <= 5 * error + 2 / count).all()


def test_a_generator_alone_decides_what_is_sampled(workspace: Workspace) -> None:
    rows = [workspace.base.encode(TEXTS[0])] * 4

    def draw(seed: int) -> list[list[int]]:
        torch.rand(seed)  # what else the process draws must not matter
        return continue_rows(workspace, rows, 6, [1.0] * 4, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    continue_rows(workspace, rows, 6, [1.0] * 4, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(1) == draw(1) != draw(2)


def test_the_weights_installed_are_those_that_write(workspace: Workspace) -> None:
    row = workspace.base.encode(TEXTS[0])
    before = continue_rows(workspace, [row], 6, [0.0])
    workspace.install({name: -weight for name, weight in workspace.base_weights.items()})
    assert continue_rows(workspace, [row], 6, [0.0]) != before


def test_other_work_may_go_first_before_every_token(make_workspace: MakeWorkspace) -> None:
    paces: list[int] = []
    workspace = make_workspace(pace=lambda: paces.append(1))
    continue_rows(workspace, [workspace.base.encode(TEXTS[0])], 7, [0.0])
    assert len(paces) == 7


def test_writing_leaves_no_gradients(workspace: Workspace) -> None:
    continue_rows(workspace, [workspace.base.encode(TEXTS[0])], 2, [0.0])
    assert not any(parameter.requires_grad for parameter in workspace.model.parameters())
