"""Hold what a step must not change: exact second-order terms of a few texts, on top of the Kronecker-factored curvature.

Curvature averages over all preserved text. For a few texts close to what is being learned the quadratic of the Taylor expansion
can be had exactly: with g_a the gradient of text a's margin, the metric becomes P^-1 + mu sum_a g_a g_a^T, and by Woodbury its
direction is the old one minus a combination of P g_a, found by solving one small system. As mu grows, the margins of the held
texts do not change at all to first order (orthogonal gradient descent in the natural metric).

Covered: the solve. Not covered: which texts, and their margins (`fold.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.capture import Terms
from adapters.curvature import DampedCurvature
from adapters.delta import Delta


@dataclass(frozen=True)
class Held:
    """Gradients g_a of n texts' margins, as rank-one terms."""

    terms: Terms
    texts: Mapping[str, Tensor]
    """Layer -> (N,) int64 in [0, n): which text each term belongs to."""
    count: int
    """n"""


def hold(direction: Delta, held: Held, curvature: DampedCurvature, slack: float) -> Delta:
    """`direction` under the metric that also holds `held`; its rank grows by the number of terms.

    slack: 1 / mu, in units of the mean of <g_a, P g_a>.
    """
    gram = torch.zeros(held.count, held.count, device=next(iter(held.texts.values())).device)
    change = gram.new_zeros(held.count)
    preconditioned = {}
    for name, (x, d) in held.terms.items():
        left, right = direction.factors[name]
        px, pd = preconditioned[name] = x @ curvature.inverse_A[name], d @ curvature.inverse_B[name]
        text = held.texts[name]
        pairs = text[:, None] * held.count + text[None, :]
        gram.view(-1).index_add_(0, pairs.flatten(), ((px @ x.T) * (pd @ d.T)).flatten())
        change.index_add_(0, text, ((d @ left) * (x @ right)).sum(-1))
    damped = gram + slack * gram.diagonal().mean() * torch.eye(held.count, device=gram.device)
    share = torch.linalg.solve(damped, change)
    out = {}
    for name, (left, right) in direction.factors.items():
        px, pd = preconditioned[name]
        out[name] = (torch.cat([left, -(pd * share[held.texts[name], None]).T], 1), torch.cat([right, px.T], 1))
    return Delta(out)
