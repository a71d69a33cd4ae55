"""The guard: what a candidate version is measured on before it may be published, and the verdict.

Probes, at exactly the weights that would be served: held-out text sampled from the base model (KL to it), the new
views (did they take?), recalled earlier lessons (are they still answered?).

Covered: measuring, the verdict. Not covered: the operator's own canaries; when to measure (the learner).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.config import GuardConfig
from adapters.memory import Memory, remembered
from adapters.workspace import Workspace


@dataclass(frozen=True)
class Drift:
    """What the probes said."""

    kl: float
    """From the base model, nats per token of self-sampled held-out text."""
    taken: float
    """Share of the new lessons whose answers are now the likeliest; 1 when there are none."""
    retained: float
    """The same of the recalled earlier lessons."""


UNTOUCHED = Drift(0.0, 1.0, 1.0)
"""Of the base model, by definition."""


class Guard:
    """Measures candidates against the base model on a rotating part of the held-out samples."""

    def __init__(self, workspace: Workspace, held_out: Tensor, config: GuardConfig) -> None:
        """held_out: (S, L) int64, sampled from the base model. The base weights are left installed."""
        self.config = config
        self._workspace = workspace
        self._held_out = held_out
        workspace.install(workspace.base_weights)
        with torch.no_grad():
            batches = [held_out[i : i + config.probes] for i in range(0, len(held_out), config.probes)]
            self._base_nll = torch.cat([workspace.nll(workspace.batch(rows.tolist())) for rows in batches])

    @torch.no_grad()
    def measure(self, new: Sequence[Memory], recalled: Sequence[Memory], turn: int) -> Drift:
        """Probe the weights installed. `turn` chooses the part of the held-out samples. Two forward passes: probes, and lessons."""
        wanted = min(self.config.probes if new else self.config.raw_probes, len(self._held_out))
        picked = [(turn * wanted + i) % len(self._held_out) for i in range(wanted)]
        length = self._held_out.shape[1] if new else min(self.config.raw_tokens, self._held_out.shape[1])
        nll = self._workspace.nll(self._workspace.batch(self._held_out[picked, :length].tolist()))
        kl = _sampled_kl(self._base_nll[picked, : length - 1], nll)
        answers = remembered(self._workspace, [*new, *recalled])
        return Drift(kl, _share(answers[: len(new)]), _share(answers[len(new) :]))

    def verdict(self, before: Drift, after: Drift) -> str | None:
        """Why a candidate must not be published, or None. `before`: of the version it starts from, on the same probes."""
        added = after.kl - before.kl
        if not added < float("inf"):
            return "the candidate's probabilities are not finite"
        if added > self.config.kl_step:
            return f"drift of this update {added:.4f} nats per token exceeds the budget of {self.config.kl_step}"
        if after.kl > self.config.kl_total:
            return f"total drift {after.kl:.4f} nats per token exceeds the budget of {self.config.kl_total}"
        if after.retained < before.retained - self.config.retention_loss:
            return f"retention of earlier documents fell from {before.retained:.2f} to {after.retained:.2f}"
        return None


def _sampled_kl(base_nll: Tensor, nll: Tensor) -> float:
    """KL(base || candidate) per token on text sampled from base: mean of r - 1 - log r, r the likelihood ratio; never negative."""
    log_ratio = (base_nll - nll).double().clamp(max=20)
    return float((log_ratio.expm1() - log_ratio).clamp(min=0).mean())


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else 1.0
