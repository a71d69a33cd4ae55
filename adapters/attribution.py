"""Attribution: which documents' deltas raised the tokens of an answer, to first order.

A version's target weights are W = W_base + sum_k D_k, a delta for each document. What delta k does for an answer is the directional
derivative

    score_k = d/de m(W + e D_k) at e = 0 = sum over layers of <grad_W m, D_k>

of the answer's margin m: the log odds of its tokens, summed. (A log-probability has no gradient left where a token is sure, which
is where something was learned well.) The gradient is a sum of rank-one terms d_s x_s^T and D_k = left right^T, so the score is

    sum_s (d_s . left) (x_s . right)

two thin products for all documents together, and no dense weights. Scores are linear in the deltas: those of two changes add up.

Covered: the margin, its terms, the scores of many deltas at once. Not covered: which deltas a version consists of, and what is kept
of them in memory (the server)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.capture import Capture, Terms
from adapters.delta import Delta, join
from adapters.workspace import Workspace


@dataclass(frozen=True)
class Stack:
    """Deltas side by side, so that all of them are scored by the same few products."""

    joined: Delta
    owners: dict[str, Tensor]
    """Layer -> (r,) int64: which of the deltas a column of its factors belongs to."""
    count: int

    @staticmethod
    def of(deltas: Sequence[Delta]) -> "Stack":
        """All of `deltas`, in order."""
        owners: dict[str, list[Tensor]] = {}
        for number, delta in enumerate(deltas):
            for name, (left, _) in delta.factors.items():
                owners.setdefault(name, []).append(torch.full((left.shape[1],), number, device=left.device))
        return Stack(join(deltas), {name: torch.cat(parts) for name, parts in owners.items()}, len(deltas))

    def __add__(self, other: "Stack") -> "Stack":
        """The deltas of both."""
        owners = dict(self.owners)
        for name, owner in other.owners.items():
            owners[name] = torch.cat([owners[name], owner + self.count]) if name in owners else owner + self.count
        return Stack(join([self.joined, other.joined]), owners, self.count + other.count)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.joined.nbytes + sum(t.numel() * t.element_size() for t in self.owners.values())

    def scores(self, terms: Terms) -> Tensor:
        """(count,) float32: <gradient, delta> of each, for the gradient that `terms` sum to."""
        out = torch.zeros(self.count)
        for name, (left, right) in self.joined.factors.items():
            x, d = terms[name]
            columns = ((d @ left) * (x @ right)).sum(0)
            out = out.to(columns.device).index_add(0, self.owners[name], columns)
        return out


def margin(logits: Tensor, tokens: Tensor) -> Tensor:
    """Scalar: log odds of `tokens` (T,) under `logits` (T, V), summed. Has a gradient however sure they are."""
    chosen = tokens[:, None]
    others = logits.scatter(-1, chosen, -torch.inf).logsumexp(-1)
    return (logits.gather(-1, chosen)[:, 0] - others).sum()


def margin_terms(workspace: Workspace, prompt: Sequence[int], answer: Sequence[int]) -> Terms:
    """Rank-one terms of the gradient of an answer's margin at the weights installed: one forward and a part of a backward pass."""
    assert prompt
    assert answer
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=workspace.base.device)  # nothing follows the last token
    tokens = torch.tensor(answer, device=workspace.base.device)
    with Capture(workspace.model, workspace.targets) as capture:
        logits = workspace.model(ids, use_cache=False, logits_to_keep=len(answer)).logits[0]
        return capture.terms(margin(logits.float(), tokens))
