"""Holding: the direction under a metric with exact terms of a few texts is what Woodbury's identity says it is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adapters.capture import Terms
from adapters.config import FoldConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta
from adapters.holding import Held, hold

IN, OUT = 5, 4
LAYERS = ("a", "b")


def positive(size: int, seed: int) -> Tensor:
    root = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / size


@pytest.fixture
def curvature() -> DampedCurvature:
    inputs = {n: positive(IN, i) for i, n in enumerate(LAYERS)}
    outputs = {n: positive(OUT, i + 7) for i, n in enumerate(LAYERS)}
    return DampedCurvature(Curvature(inputs, outputs, torch.zeros(1, 2), ""), FoldConfig(1e-2, 1e-2), torch.device("cpu"))


def terms(count: int, seed: int) -> Terms:
    draw = torch.Generator().manual_seed(seed)
    return {n: (torch.randn(count, IN, generator=draw), torch.randn(count, OUT, generator=draw)) for n in LAYERS}


HELD = Held(terms(6, 3), {n: torch.tensor([0, 0, 1, 1, 2, 2]) for n in LAYERS}, 3)


def flat(dense: Callable[[str], Tensor]) -> Tensor:
    return torch.cat([dense(n).double().flatten() for n in LAYERS])


def gradients() -> Tensor:
    """(3, all weights): of each held text."""
    rows = []
    for text in range(HELD.count):
        mine = {n: (x[HELD.texts[n] == text], d[HELD.texts[n] == text]) for n, (x, d) in HELD.terms.items()}
        rows.append(flat(lambda n, mine=mine: mine[n][1].T @ mine[n][0]))
    return torch.stack(rows)


@pytest.mark.parametrize("slack", [0.0, 1e-3, 1.0])
def test_the_direction_solves_the_metric_with_the_held_terms_added(slack: float, curvature: DampedCurvature) -> None:
    loss = terms(4, 11)
    direction = curvature.direction(loss)
    held = flat(hold(direction, HELD, curvature, slack).dense)
    metric = torch.block_diag(
        *(
            torch.kron(torch.linalg.inv(curvature.inverse_B[n].double()), torch.linalg.inv(curvature.inverse_A[n].double()))
            for n in LAYERS
        )
    )
    gradient, g = flat(lambda n: loss[n][1].T @ loss[n][0]), gradients()
    if slack == 0:
        torch.testing.assert_close(g @ held, torch.zeros(3).double(), atol=1e-3, rtol=0)
        residual = metric @ held + gradient
        share = torch.linalg.lstsq(g.T, residual[:, None]).solution
        torch.testing.assert_close((g.T @ share)[:, 0], residual, atol=1e-3, rtol=1e-3)
        return
    mean = float((g @ torch.linalg.solve(metric, g.T)).diagonal().mean())
    full = metric + g.T @ g / (slack * mean)
    torch.testing.assert_close(held, -torch.linalg.solve(full, gradient), atol=1e-3, rtol=1e-3)


def test_with_much_slack_nothing_is_held(curvature: DampedCurvature) -> None:
    direction = curvature.direction(terms(4, 11))
    torch.testing.assert_close(flat(hold(direction, HELD, curvature, 1e9).dense), flat(direction.dense), atol=1e-5, rtol=1e-5)


def test_a_held_direction_still_descends(curvature: DampedCurvature) -> None:
    loss = terms(4, 11)
    assert curvature.slope(loss, hold(curvature.direction(loss), HELD, curvature, 1e-2)) < 0


def test_holding_the_gradient_itself_leaves_no_direction(curvature: DampedCurvature) -> None:
    loss = terms(4, 11)
    itself = Held(loss, {n: torch.zeros(4, dtype=torch.long) for n in LAYERS}, 1)
    left: Delta = hold(curvature.direction(loss), itself, curvature, 0.0)
    assert float(flat(left.dense).norm()) < 1e-3 * float(flat(curvature.direction(loss).dense).norm())
