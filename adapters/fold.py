"""The closed-form step: token weights and captured terms to a delta.

Minimises  sum_t w_t loss_t(W + D) + lambda/2 sum_l tr(B_l D_l A_l D_l^T)  by natural-gradient steps (the Taylor part;
EMCL, Zou and Lin 2022, with Kronecker factors for the diagonal), each as long as the smaller of the Newton step of
the linear model and the step that spends the KL budget, halved until the loss really falls.

Covered: one batch of weighted texts. Not covered: which texts and weights (`views.py`, `importance.py`), the verdict
(`drift.py`)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.capture import Capture, Terms, frozen_stem
from adapters.config import FoldConfig
from adapters.curvature import DampedCurvature
from adapters.delta import Delta, join
from adapters.holding import Held, hold
from adapters.importance import features_of
from adapters.targets import Targets
from adapters.workspace import Batch, Workspace, token_nll

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Features of predicted tokens (see `importance.features_of`) -> their weights (B, T-1)."""
ENOUGH = 0.9
"""A step counts when the loss falls below this share of what it was."""


@dataclass(frozen=True)
class Lesson:
    """Weighted texts, and the tokens that must come out right before the fold may stop."""

    batch: Batch
    weights: Tensor
    """(B, T-1) in [0, 1]."""
    required: Tensor
    """(B, T-1) bool: the answers of new views, and of what was lost."""
    kept: Tensor | None = None
    """(B, T-1) bool: the answers of what is rehearsed, held where they are right and learned where they are not."""


@dataclass(frozen=True)
class FoldReport:
    """What one fold did. Losses are weighted mean NLLs in nats per token."""

    loss_before: float
    loss_after: float
    """Under the weights of the last step, which may be more than those of the first."""
    predicted_change: float
    """Of the loss, to first order, summed over the steps."""
    actual_change: float
    """The same, measured: what Taylor left out is the difference."""
    predicted_kl: float
    """1/2 tr(B D A D^T), nats per token of preserved text, summed over the steps."""
    iterations: int
    took: bool
    """Whether every required token came out likely, those of what was lost before included."""


class _Position:
    """Where a fold stands: losses at the current weights, and what is still missing."""

    def __init__(self, nll: Tensor, lesson: Lesson, weights: Tensor, config: FoldConfig) -> None:
        self.weights, self.kept = weights, torch.zeros_like(lesson.required) if lesson.kept is None else lesson.kept
        self.held = self.kept.any(-1) & ~(self.kept & (nll.detach() > config.required_nll)).any(-1)
        """(B,) bool: rows that are all right, and stay out of the loss while they are."""
        self.loss = weighted_mean(nll, weights, ~self.held)
        self.missing = lesson.required & (nll.detach() > config.required_nll)
        self.done = not bool(self.missing.any()) and self.loss.item() <= config.target_nll
        self.graph = nll

    def raise_missing(self) -> None:
        """Give what is missing full weight: an answer is to be learned to its end, not only where it first surprises."""
        self.weights = torch.maximum(self.weights, self.missing.float())
        self.loss = weighted_mean(self.graph, self.weights, ~self.held)

    def margins(self) -> Tensor:
        """Scalar: log odds of the answers of all held rows; unlike their losses, these keep a gradient when they are sure."""
        likely = (-self.graph).exp().clamp(max=1 - 1e-5)
        return ((-self.graph - torch.log1p(-likely)) * (self.kept & self.held[:, None])).sum()


def weighted_mean(nll: Tensor, weights: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over rows of each row's weighted mean NLL (scalar); rows without weight do not count. Both (B, T-1).

    counted: (B,) bool, rows of which the loss counts; the others count as if they had none.
    """
    mass = weights.sum(-1)
    rows = (nll * weights).sum(-1) / mass.clamp(min=1e-9)
    return (rows if counted is None else rows * counted).sum() / (mass > 0).sum().clamp(min=1)


def fold(
    workspace: Workspace,
    lesson: Lesson,
    curvature: DampedCurvature,
    config: FoldConfig,
    weigh_first: Weigh | None = None,
    targets: Targets | None = None,
) -> tuple[Delta, FoldReport]:
    """Fold `lesson` into the weights installed in `workspace`, which afterwards holds the result, up to truncation.

    weigh_first: computes the weights from the features that the first forward pass yields anyway; those of the lesson are ignored.
    targets: the layers that may change; the workspace's if None. What lies below them is run once.
    All weights zero: the zero delta.
    """
    parts: list[Delta] = []
    predicted = actual = kl = 0.0
    targets = targets or workspace.targets
    with Capture(workspace.model, targets) as capture, frozen_stem(workspace.model, targets):
        at = _first(workspace, lesson, config, weigh_first)
        before = at.loss.item()
        while bool(at.weights.any()) and not at.done and len(parts) < config.iterations:
            at.raise_missing()
            workspace.pace()
            terms, held = _split(capture.terms(at.loss + at.margins()), at.held, config.keep)
            direction = curvature.direction(terms)
            if held is not None:
                direction = hold(direction, held, curvature, config.slack)
            slope, loss = curvature.slope(terms, direction), at.loss.item()
            if slope >= 0:
                break
            bend = curvature.bend(terms, direction) if held is None else curvature.quadratic(direction)
            step = _length(slope, bend, loss, config.kl_budget)
            at, step = _advance(workspace, lesson, at.weights, direction, step, loss, config)
            if step == 0:
                break
            predicted, actual, kl = predicted + step * slope, actual + at.loss.item() - loss, kl + step**2 * bend / 2
            parts.append(Delta({n: (left * step, right) for n, (left, right) in direction.factors.items()}))
    delta = join(parts).truncate(config.singular)
    return delta, FoldReport(before, at.loss.item(), predicted, actual, kl, len(parts), not bool(at.missing.any()))


def _first(workspace: Workspace, lesson: Lesson, config: FoldConfig, weigh_first: Weigh | None) -> _Position:
    """Where a fold starts."""
    if weigh_first is None:
        return _Position(workspace.nll(lesson.batch), lesson, lesson.weights, config)
    outputs = workspace.outputs(lesson.batch)
    assert outputs.logits is not None
    weights = weigh_first(*features_of(outputs, lesson.batch))
    return _Position(token_nll(outputs.logits, lesson.batch.ids), lesson, weights, config)


def _length(slope: float, bend: float, loss: float, budget: float) -> float:
    """How far to go: to where the linear model has no loss left, or to where the KL budget is spent."""
    return min(loss / -slope, math.sqrt(2 * budget / max(bend, 1e-20)))


def _advance(
    workspace: Workspace,
    lesson: Lesson,
    weights: Tensor,
    direction: Delta,
    step: float,
    before: float,
    config: FoldConfig,
) -> tuple[_Position, float]:
    """Step along `direction`, halving until the loss is low enough. Returns where that led, and the step: 0 if none helps."""
    workspace.step(direction, step)
    at = _Position(workspace.nll(lesson.batch), lesson, weights, config)
    for _ in range(config.backtracks):
        if at.loss.item() <= ENOUGH * before:
            break
        workspace.step(direction, -step / 2)
        step = step / 2
        at = _Position(workspace.nll(lesson.batch), lesson, weights, config)
    if not at.loss.item() < before:
        workspace.step(direction, -step)
        return _Position(workspace.nll(lesson.batch), lesson, weights, config), 0.0
    return at, step


def _split(terms: Terms, held: Tensor, keep: float) -> tuple[Terms, Held | None]:
    """The terms of the loss, and those of the margins of `held` rows (B,), each without the small ones."""
    if not bool(held.any()):
        return _prune(terms, keep), None
    length = next(iter(terms.values()))[0].shape[0] // len(held)
    mine, number = held.repeat_interleave(length), (held.cumsum(0) - 1).repeat_interleave(length)
    margins: Terms = {}
    texts = {}
    for name, (x, d) in terms.items():
        large = _large(x[mine], d[mine], keep)
        margins[name], texts[name] = (x[mine][large], d[mine][large]), number[mine][large]
    rest = {name: (x[~mine], d[~mine]) for name, (x, d) in terms.items()}
    return _prune(rest, keep), Held(margins, texts, int(held.sum()))


def _prune(terms: Terms, keep: float) -> Terms:
    """Drop rank-one terms whose norm is below `keep` of the layer's largest (most positions, most of the time)."""
    kept = {name: _large(x, d, keep) for name, (x, d) in terms.items()}
    return {name: (x[kept[name]], d[kept[name]]) for name, (x, d) in terms.items()}


def _large(x: Tensor, d: Tensor, keep: float) -> Tensor:
    """(N,) bool: which terms are above `keep` of the largest."""
    size: Tensor = x.norm(dim=-1) * d.norm(dim=-1)
    return size > keep * size.max()
