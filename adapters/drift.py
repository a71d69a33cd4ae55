"""The guard: what a candidate version is measured on before it may be published, and the verdict.

Probes, at exactly the weights that would be served: held-out text sampled from the base model (KL to it), the new
views (did they take?), earlier lessons in turns (are they still answered?), and all of the operator's canaries: questions
whose answers must not change.

Covered: measuring, the verdict. Not covered: which canaries there are, and what is done if live ones fall (the server).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.capture import Stem, frozen_stem
from adapters.config import GuardConfig
from adapters.delta import DeltaSum
from adapters.memory import Memory, remembered
from adapters.targets import Targets
from adapters.workspace import Workspace


@dataclass(frozen=True)
class Drift:
    """What the probes said."""

    kl: float
    """From the base model, nats per token of self-sampled held-out text."""
    taken: float
    """Share of the new lessons whose answers are now the likeliest; 1 when there are none."""
    retained: float
    """The same of the earlier lessons asked."""
    canaries: float = 1.0
    """The same of the canaries."""


SHOWN = 3
"""Canaries that a verdict names."""
TURNS, RAW_TURNS = 4, 16
"""So many updates in succession share their probes, so that where one ended the next begins; and where they come from raw text."""
UNTOUCHED = Drift(0.0, 1.0, 1.0)
"""Of the base model, by definition."""


@dataclass(frozen=True)
class Probed:
    """What is asked of a candidate, beside held-out text."""

    new: Sequence[Memory]
    """Its document's lessons."""
    earlier: Sequence[Memory] = ()
    canaries: Sequence[Memory] = ()


@dataclass(frozen=True)
class _Measured:
    """What was measured on held-out text lately."""

    raw: bool
    """As for an update from raw text."""
    picked: list[int]
    """Samples."""
    weights: Mapping[str, Tensor]
    drift: float
    stem: Stem | None = None
    """Of raw text: what the layers that it does not change gave."""


class Guard:
    """Measures candidates against the base model on a rotating part of the held-out samples."""

    def __init__(self, workspace: Workspace, held_out: Tensor, config: GuardConfig, raw: Targets | None) -> None:
        """held_out: (S, L) int64, sampled from the base model. raw: the layers that the fast path changes; None: it is not taken.

        The base weights are left installed.
        """
        self.config, self._workspace, self._held_out, self._raw = config, workspace, held_out, raw
        self._measured: list[_Measured] = []
        """Of what is served, and of a candidate."""
        workspace.install(workspace.base_weights)
        with torch.no_grad():
            batches = [held_out[i : i + config.probes] for i in range(0, len(held_out), config.probes)]
            self._base_nll = torch.cat([workspace.nll(workspace.batch(rows.tolist())) for rows in batches])

    def judge(self, current: DeltaSum, candidate: DeltaSum, probed: Probed, turn: int) -> tuple[Drift, str | None]:
        """What is measured of `candidate`, at exactly the weights that would be served, and why to reject it, or None."""
        after, held = self.probe(candidate, probed, turn)
        fallen = [canary for canary, holds in zip(probed.canaries, held, strict=True) if not holds]
        reason, sole = None, self.verdict(UNTOUCHED, after)
        if fallen or sole is not None:  # else it is within what one update may cost even if all of it were this one's
            self._workspace.install(current.weights())
            reason = self.verdict(self._before(after, probed, turn), after) or self._canary_verdict(fallen, len(probed.canaries))
        self._keep(candidate if reason is None else current)
        return after, reason

    def probe(self, candidate: DeltaSum, probed: Probed, turn: int) -> tuple[Drift, list[bool]]:
        """What is measured of `candidate`, and which of the canaries hold. Its weights are left installed."""
        self._workspace.install(candidate.weights())
        held = remembered(self._workspace, probed.canaries)
        return replace(self.measure(probed.new, probed.earlier, turn), canaries=_share(held)), held

    def _keep(self, served: DeltaSum) -> None:
        """Only what was measured of the weights that are served next, so that no others are held."""
        self._measured = [found for found in self._measured if _same(found.weights, served.weights())][-1:]

    @torch.no_grad()
    def measure(self, new: Sequence[Memory], earlier: Sequence[Memory], turn: int) -> Drift:
        """Probe the weights installed. `turn` chooses the held-out samples. At most two forward passes: probes, and lessons."""
        kl = self._kl(new, turn)
        answers = remembered(self._workspace, [*new, *earlier])
        return Drift(kl, _share(answers[: len(new)]), _share(answers[len(new) :]))

    @torch.no_grad()
    def _before(self, after: Drift, probed: Probed, turn: int) -> Drift:
        """Of the weights installed as much as the verdict on `after` turns on, so that no document pays for what earlier ones have
        spent; else the best there can be."""
        kl = self._kl(probed.new, turn) if after.kl > self.config.kl_step else UNTOUCHED.kl
        if after.retained >= UNTOUCHED.retained - self.config.retention_loss:
            return replace(UNTOUCHED, kl=kl)
        return Drift(kl, UNTOUCHED.taken, _share(remembered(self._workspace, probed.earlier)))

    @torch.no_grad()
    def held_out_kl(self) -> float:
        """Of the weights installed, on all held-out samples."""
        parts = [range(len(self._held_out))[i : i + self.config.probes] for i in range(0, len(self._held_out), self.config.probes)]
        return sum(len(part) * self._drift(list(part)) for part in parts) / len(self._held_out)

    def _canary_verdict(self, fallen: Sequence[Memory], count: int) -> str | None:
        """Why the canaries that `fallen` are, of `count`, may not change, or None. What the candidate started from is installed."""
        before = remembered(self._workspace, fallen)
        changed = [canary for canary, held in zip(fallen, before, strict=True) if held]
        if len(changed) <= self.config.canary_loss * count:
            return None
        shown = "; ".join(self._workspace.base.decode(list(m.prompt)).strip() for m in changed[:SHOWN])
        more = "; ..." if len(changed) > SHOWN else ""
        return f"{len(changed)} of {count} canaries would no longer be answered as they must be: {shown}{more}"

    def _kl(self, new: Sequence[Memory], turn: int) -> float:
        """Of the weights installed. What was measured last, of the same weights on the same samples, is not measured again."""
        raw, weights = None if new else self._raw, self._workspace.installed
        assert weights.keys() == self._workspace.base_weights.keys(), "what is measured was installed, not stepped to"
        picked = self._picked(turn // RAW_TURNS, self.config.raw_probes) if raw else self._picked(turn // TURNS, self.config.probes)
        alike = [found for found in self._measured if found.raw == bool(raw) and found.picked == picked]
        found = next((found for found in alike if _same(found.weights, weights)), None)
        if found is None:
            found = self._raw_drift(picked, weights, raw, alike) if raw else _Measured(False, picked, weights, self._drift(picked))
            self._measured = [*self._measured[-1:], found]
        return found.drift

    def _picked(self, turn: int, probes: int) -> list[int]:
        """The next samples in turn."""
        wanted = min(probes, len(self._held_out))
        return [(turn * wanted + i) % len(self._held_out) for i in range(wanted)]

    def _drift(self, picked: list[int], length: int | None = None) -> float:
        """On the first `length` tokens of these samples; None: on all."""
        rows = self._held_out[picked, :length]
        nll = self._workspace.nll(self._workspace.batch(rows.tolist()))
        return _sampled_kl(self._base_nll[picked, : rows.shape[1] - 1], nll)

    def _raw_drift(self, picked: list[int], weights: Mapping[str, Tensor], raw: Targets, alike: Sequence[_Measured]) -> _Measured:
        """On the fast path. alike: what was measured on the same samples, whose stem is of use where what is below is the same."""
        stems = (found.stem for found in alike if _same(_below(found.weights, raw), _below(weights, raw)))
        with frozen_stem(self._workspace.model, raw, next(stems, None)) as stem:
            drift = self._drift(picked, self.config.raw_tokens)
        return _Measured(True, picked, weights, drift, stem)

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


def _below(weights: Mapping[str, Tensor], raw: Targets) -> dict[str, Tensor]:
    """Without those of the layers that raw text changes."""
    return {name: weight for name, weight in weights.items() if name not in raw.names}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether these are the very same tensors."""
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _sampled_kl(base_nll: Tensor, nll: Tensor) -> float:
    """KL(base || candidate) per token on text sampled from base: mean of r - 1 - log r, r the likelihood ratio; never negative."""
    log_ratio = (base_nll - nll).double().clamp(max=20)
    return float((log_ratio.expm1() - log_ratio).clamp(min=0).mean())


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else 1.0
