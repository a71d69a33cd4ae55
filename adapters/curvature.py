"""Second moments of the target layers over text that must be preserved, and what they make of a gradient.

A = E[x x^T], B = E[d d^T] per target layer: the Kronecker-factored quadratic of the Taylor expansion of the old knowledge
(EMCL's diagonal importance is its special case; the right factor alone is MEMIT's C^-1). Text is sampled from the
model itself, so no training data is needed, and labels are sampled too: the true Fisher, not the empirical one
(Martens, Grosse 2015).

Covered: measuring, damping, preconditioning, the quadratic, files. Not covered: curvature of what was learned
(`metric.py`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from adapters.capture import Capture, Terms
from adapters.config import CurvatureConfig, FoldConfig
from adapters.delta import Delta
from adapters.sampling import continue_rows
from adapters.tensor_file import read_tensors, write_tensors
from adapters.workspace import Batch, Workspace

Progress = Callable[[float], None]
"""Called with the share done, in [0, 1]."""


@dataclass(frozen=True)
class Curvature:
    """The factors, and the held-out samples that the guard compares on."""

    inputs: Mapping[str, Tensor]
    """Layer -> A (d_in, d_in), float32."""
    outputs: Mapping[str, Tensor]
    """Layer -> B (d_out, d_out), float32, per token of preserved text."""
    held_out: Tensor
    """(S, L) int64: self-sampled text that no factor has seen."""
    digest: str
    """Of the base model it was measured on."""

    def only(self, layers: Sequence[str]) -> "Curvature":
        """Of these layers alone."""
        return replace(self, inputs={n: self.inputs[n] for n in layers}, outputs={n: self.outputs[n] for n in layers})

    def save(self, path: Path) -> None:
        """Write one safetensors file; symmetric factors as their upper triangles."""
        tensors = {"held_out": self.held_out}
        for kind, factors in (("A", self.inputs), ("B", self.outputs)):
            for name, matrix in factors.items():
                rows, columns = torch.triu_indices(*matrix.shape)
                tensors[f"{kind}:{name}"] = matrix[rows, columns]
        write_tensors(path, tensors, self.digest)

    @staticmethod
    def load(path: Path, digest: str) -> "Curvature":
        """Read what `save` wrote.

        Raises:
            CorruptCheckpoint: torn, or of another base model.
        """
        tensors = read_tensors(path, digest, "curvature")
        held_out = tensors.pop("held_out")
        factors: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
        for key, triangle in tensors.items():
            kind, _, name = key.partition(":")
            factors[kind][name] = _symmetric(triangle)
        return Curvature(factors["A"], factors["B"], held_out, digest)


def _symmetric(triangle: Tensor) -> Tensor:
    """The full matrix (n, n) of an upper triangle (n (n + 1) / 2,)."""
    n = int(((8 * triangle.numel() + 1) ** 0.5 - 1) / 2)
    rows, columns = torch.triu_indices(n, n)
    matrix = torch.zeros(n, n, dtype=triangle.dtype)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


def sample_text(workspace: Workspace, count: int, length: int) -> Tensor:
    """Sample `count` texts of `length` tokens at temperature 1, texts that end early going on. Returns (count, length) int64."""
    first = workspace.base.start or [next(iter(workspace.base.stop_ids), 0)]
    new = continue_rows(workspace, [first] * count, length - len(first), [1.0] * count)
    return torch.tensor([first + row for row in new], device=workspace.base.device)


def measure_curvature(workspace: Workspace, config: CurvatureConfig, progress: Progress = lambda _: None) -> Curvature:
    """Measure both factors of every target layer on text sampled from the base weights."""
    workspace.install(workspace.base_weights)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    tokens = 0
    for done in range(0, config.samples, config.batch):
        ids = sample_text(workspace, min(config.batch, config.samples - done), config.length)
        with Capture(workspace.model, workspace.targets) as capture:
            logits = workspace.logits(Batch(ids, torch.ones_like(ids))).float()
            labels = torch.distributions.Categorical(logits=logits.detach()).sample()  # type: ignore[no-untyped-call]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            workspace.pace()
            for name, (x, d) in capture.terms(loss).items():
                inputs[name] = inputs[name] + x.T @ x if name in inputs else x.T @ x
                outputs[name] = outputs[name] + d.T @ d if name in outputs else d.T @ d
        tokens += ids.numel()
        progress(min(1.0, (done + config.batch) / config.samples))
    held_out = sample_text(workspace, config.held_out, config.length)
    digest = workspace.base.digest
    return Curvature({n: m / tokens for n, m in inputs.items()}, {n: m / tokens for n, m in outputs.items()}, held_out, digest)


class DampedCurvature:
    """Curvature ready for use: damped inverses, the natural direction, the predicted KL."""

    def __init__(self, curvature: Curvature, config: FoldConfig, device: torch.device) -> None:
        self.A = {n: m.to(device) for n, m in curvature.inputs.items()}
        self.B = {n: m.to(device) for n, m in curvature.outputs.items()}
        self.damping_A = {n: config.input_damping * float(m.diagonal().mean()) for n, m in self.A.items()}
        self.damping_B = {n: config.output_damping * float(m.diagonal().mean()) for n, m in self.B.items()}
        self.inverse_A = {n: _damped_inverse(m, self.damping_A[n]) for n, m in self.A.items()}
        self.inverse_B = {n: _damped_inverse(m, self.damping_B[n]) for n, m in self.B.items()}

    def direction(self, terms: Terms) -> Delta:
        """-(B + damping)^-1 G (A + damping)^-1 for G = d^T x, as factors of rank N (positions)."""
        # few rows from the left: the factors are symmetric, and this order is several times faster
        return Delta({n: (-(d @ self.inverse_B[n]).T, (x @ self.inverse_A[n]).T) for n, (x, d) in terms.items()})

    def slope(self, terms: Terms, delta: Delta) -> float:
        """<G, D>: predicted change of the loss along `delta`, to first order."""
        return sum(float(((d @ delta.factors[n][0]) * (x @ delta.factors[n][1])).sum()) for n, (x, d) in terms.items())

    def bend(self, terms: Terms, direction: Delta) -> float:
        """`quadratic` of the `direction` of `terms`, cheaply: (B + b I) left = -d^T gives B left = -d^T - b left."""
        total = 0.0
        for name, (x, d) in terms.items():
            left, right = direction.factors[name]
            outer = -(d @ left) - self.damping_B[name] * (left.T @ left)
            inner = x @ right - self.damping_A[name] * (right.T @ right)
            total += float((outer * inner).sum())
        return max(total, 0.0)

    def quadratic(self, delta: Delta) -> float:
        """sum_l tr(B D A D^T): twice the predicted KL to the preserved text, nats per token."""
        return sum(
            float(((left.T.contiguous() @ self.B[n] @ left) * (right.T.contiguous() @ self.A[n] @ right)).sum())
            for n, (left, right) in delta.factors.items()
        )


def _damped_inverse(matrix: Tensor, damping: float) -> Tensor:
    """(M + damping * I)^-1, symmetric positive definite, float32 (inverted in float64)."""
    wide = matrix.double()
    wide = wide + max(damping, 1e-30) * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(wide)).float().contiguous()
