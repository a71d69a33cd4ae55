"""Train the token scorer with the closed-form meta-gradient.

A task T about a text D, its gradient g, the preconditioned direction v = P g. Then s_t = <v, grad loss_t> is the
derivative of every token's loss along v: one forward-mode product, or two forward passes (central difference). To
first order, learning with weights w lowers the task loss by sum_t w_t s_t; under w >= 0 and a quadratic penalty the
best weights are proportional to max(s_t, 0). The head regresses these. This is Train-Attention's bilevel objective
(Seo et al. 2024) without its second derivative and without unrolling.

Covered: targets, fitting. Not covered: where tasks come from (any pairs of text and view will do; the learner writes
its own)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapters.capture import Capture, frozen_stem
from adapters.curvature import DampedCurvature
from adapters.delta import Delta
from adapters.importance import TokenScorer, features
from adapters.workspace import Workspace, token_nll

RELATIVE_STEP = 1e-3
"""Size of the central difference, as a share of the norm of all target weights."""


@dataclass(frozen=True)
class Task:
    """A text to weigh, and a question whose answer tells which of its tokens matter."""

    text: list[int]
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Example:
    """What the head is fitted on: features of each predicted token of one text, and its target weight."""

    hidden: Tensor
    """(1, T-1, H)"""
    evidence: Tensor
    """(1, T-1, 2)"""
    target: Tensor
    """(1, T-1) in [0, 1]"""


def task_direction(workspace: Workspace, task: Task, curvature: DampedCurvature) -> Delta:
    """v = P g for the gradient g of the answer's mean NLL, at the weights installed."""
    batch = workspace.batch([task.prompt + task.answer])
    with Capture(workspace.model, workspace.targets) as capture, frozen_stem(workspace.model, workspace.targets):
        loss = workspace.nll(batch)[0, len(task.prompt) - 1 :].mean()
        ascent = curvature.direction(capture.terms(loss))
    return Delta({n: (-left, right) for n, (left, right) in ascent.factors.items()})


@torch.no_grad()
def central_difference(workspace: Workspace, text: list[int], direction: Delta) -> Tensor:
    """Derivative of each token's loss along `direction` (1, T-1): two forward passes above the stem; error O(step^2)."""
    batch = workspace.batch([text])
    weights = math.sqrt(sum(float(w.float().pow(2).sum()) for w in workspace.base_weights.values()))
    size = math.sqrt(sum(norm**2 for norm in direction.norms().values()))
    step = RELATIVE_STEP * weights / max(size, 1e-30)
    installed = workspace.weights()
    with frozen_stem(workspace.model, workspace.targets):
        workspace.step(direction, step)
        up = workspace.nll(batch)
        workspace.step(direction, -2 * step)
        down = workspace.nll(batch)
    workspace.install(installed)  # stepping back would leave rounding behind
    return (up - down) / (2 * step)


@torch.no_grad()
def forward_mode(workspace: Workspace, text: list[int], direction: Delta) -> Tensor:
    """The same derivative (1, T-1) by one forward-mode product: exact, in any dtype."""
    batch = workspace.batch([text])
    parameters = {f"{n}.weight": workspace.weight_parameter(n) for n in workspace.targets.names}
    tangents = {f"{n}.weight": workspace.as_parameter(n, direction) for n in workspace.targets.names}

    def losses(changed: dict[str, Tensor]) -> Tensor:
        out = functional_call(workspace.model, changed, (batch.ids,), {"attention_mask": batch.mask, "use_cache": False})
        return token_nll(out.logits, batch.ids)

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward-mode rule
        derivative: Tensor = jvp(losses, (parameters,), (tangents,))[1]
    return derivative


def token_derivatives(workspace: Workspace, text: list[int], direction: Delta) -> Tensor:
    """s_t for all tokens by the cheaper way that is exact enough.

    Two forward passes above the stem always cost less than the product (measured: 2 against 3.2 over all layers, and
    less with depth), but a difference of nearly equal losses needs float32."""
    return (central_difference if workspace.model.dtype == torch.float32 else forward_mode)(workspace, text, direction)


def make_example(workspace: Workspace, task: Task, curvature: DampedCurvature) -> Example:
    """The closed-form target of one task: max(s_t, 0), scaled to a largest weight of 1."""
    useful = token_derivatives(workspace, task.text, task_direction(workspace, task, curvature)).clamp(min=0)
    hidden, evidence = features(workspace, workspace.batch([task.text]))
    return Example(hidden, evidence, useful / useful.max().clamp(min=1e-9))


def fit_scorer(
    examples: Sequence[Example],
    epochs: int = 8,
    rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> TokenScorer:
    """Fit the head to the targets by binary cross-entropy (Adam, one text a step)."""
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = TokenScorer(examples[0].hidden.shape[-1]).to(examples[0].hidden.device)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=rate)
    for epoch in range(epochs):
        for index in torch.randperm(len(examples), generator=order).tolist():
            example = examples[index]
            logits = scorer.logits(example.hidden, example.evidence)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, example.target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        progress((epoch + 1) / epochs)
    return scorer.eval().requires_grad_(False)
