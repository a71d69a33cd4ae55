"""What one document changed: a sum of rank-one terms per target layer; and the exact sum of many such changes.

Deltas are rounded to a dyadic grid before they are summed, and the sums are kept in float64: below 2**13 in magnitude,
additions of multiples of 2**-40 are exact, so that deltas form an abelian group. Adding and removing them in any
order restores the weights bit for bit, which subtracting float32 tensors does not.

Covered: algebra, norms, truncation. Not covered: files (`checkpoint.py`), where deltas come from (`fold.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GRID = 2.0**40
"""Steps per unit weight."""
LIMIT = 2.0**12
"""Largest magnitude of a summed change: half of what float64 sums exactly on this grid."""


@dataclass(frozen=True)
class Delta:
    """Change of the target layers: D = left @ right^T for each."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Layer -> (left (d_out, r), right (d_in, r)), float32."""

    @staticmethod
    def zero() -> "Delta":
        """The delta that changes nothing."""
        return Delta({})

    @property
    def nbytes(self) -> int:
        """Size of the factors in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.factors.values() for t in pair)

    def dense(self, layer: str) -> Tensor:
        """The change of `layer` (d_out, d_in), float64, on the grid."""
        left, right = self.factors[layer]
        return (left.double() @ right.double().T).mul_(GRID).round_().div_(GRID)

    def norms(self) -> dict[str, float]:
        """Frobenius norm of the change of each layer."""
        return {
            name: float(((left.T @ left) * (right.T @ right)).sum().clamp(min=0).sqrt())
            for name, (left, right) in ((n, (u.double(), v.double())) for n, (u, v) in self.factors.items())
        }

    def truncate(self, keep: float) -> "Delta":
        """Compress each layer by a thin SVD, dropping singular values below `keep` of the layer's largest."""
        out = {}
        for name, (left, right) in self.factors.items():
            ql, rl = torch.linalg.qr(left)
            qr, rr = torch.linalg.qr(right)
            u, s, vt = torch.linalg.svd(rl @ rr.T, full_matrices=False)
            kept = s > keep * s[:1]  # of a change of rank 0 there is no first
            out[name] = (ql @ u[:, kept] * s[kept], qr @ vt[kept].T)
        return Delta(out)


def join(deltas: Iterable[Delta]) -> Delta:
    """The delta that does what all of `deltas` do: ranks add up."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for delta in deltas:
        for name, pair in delta.factors.items():
            parts.setdefault(name, []).append(pair)
    return Delta({n: (torch.cat([p[0] for p in pairs], 1), torch.cat([p[1] for p in pairs], 1)) for n, pairs in parts.items()})


@dataclass(frozen=True)
class Distance:
    """How far apart the weights of one layer are in two versions."""

    norm: float
    """Frobenius norm of the difference."""
    relative: float
    """The same over the norm of the base weight."""


class DeltaSum:
    """The exact sum of deltas over base weights: what one version's target layers hold."""

    def __init__(self, base: Mapping[str, Tensor], totals: Mapping[str, Tensor] | None = None) -> None:
        """`base`: layer -> weight (d_out, d_in), never changed; `totals`: layer -> summed change, float64, on the grid."""
        self._base = base
        self.totals = dict(totals) if totals is not None else {}
        self._weights: dict[str, Tensor] = {}  # of the totals as they are

    def copy(self) -> "DeltaSum":
        """An independent sum that starts from this one; tensors are shared, and never changed in place."""
        twin = DeltaSum(self._base, self.totals)
        twin._weights = dict(self._weights)
        return twin

    def add(self, delta: Delta) -> None:
        """Add `delta`."""
        self._accumulate(delta, 1.0)

    def remove(self, delta: Delta) -> None:
        """Take `delta` away again: exact, whatever was added in between."""
        self._accumulate(delta, -1.0)

    def weight(self, layer: str) -> Tensor:
        """Weight of `layer` (d_out, d_in) in the base model's dtype; the base weight itself where nothing was added."""
        base, total = self._base[layer], self.totals.get(layer)
        if total is None:
            return base
        if layer not in self._weights:
            self._weights[layer] = (base.double() + total).to(base.dtype)
        return self._weights[layer]

    def weights(self) -> dict[str, Tensor]:
        """All target layers' weights."""
        return {layer: self.weight(layer) for layer in self._base}

    def distances(self, other: "DeltaSum") -> dict[str, Distance]:
        """Of each layer from what it holds in `other`, a sum over the same base: of the sums themselves, which are exact."""
        found = {}
        for layer, base in self._base.items():
            mine, theirs = self.totals.get(layer), other.totals.get(layer)
            if mine is None and theirs is None:
                found[layer] = Distance(0.0, 0.0)
                continue
            none = torch.zeros_like(base, dtype=torch.float64)
            norm = float(torch.linalg.norm((none if mine is None else mine) - (none if theirs is None else theirs)))
            found[layer] = Distance(norm, norm / max(float(torch.linalg.norm(base.double())), torch.finfo(torch.float32).tiny))
        return found

    def _accumulate(self, delta: Delta, sign: float) -> None:
        for layer in delta.factors:
            total = delta.dense(layer).mul_(sign).to(self._base[layer].device)
            if layer in self.totals:
                total += self.totals[layer]
            assert float(total.abs().max()) < LIMIT, "a weight change left the range in which sums are exact"
            self.totals[layer] = total
            self._weights.pop(layer, None)
