"""A version as a LoRA adapter: the best approximation of low rank, in the metric of the text that must be preserved.

The change D of a layer is replaced by the X of rank r that minimises tr(B (D - X) A (D - X)^T), A and B the damped curvature: twice
the KL that the difference costs on that text, to second order. With Cholesky factors A = K K^T and B = L L^T that is the Frobenius
norm of L^T (D - X) K, so by Eckart and Young X is the truncated SVD of L^T D K, mapped back: a weighted low-rank approximation with
weights that factorise (Srebro, Jaakkola 2003), which has a closed form.

Covered: truncation, what it costs, the files that PEFT reads. Not covered: directories and archives (the server's).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from adapters.curvature import DampedCurvature
from adapters.delta import Delta, DeltaSum
from adapters.drift import Guard
from adapters.memory import Memory, remembered
from adapters.workspace import Workspace


@dataclass(frozen=True)
class Residual:
    """What truncation leaves out of one layer's change, as a share of it."""

    metric: float
    frobenius: float


@dataclass(frozen=True)
class Probes:
    """What certain weights do."""

    kl: float
    """From the base model, nats per token of all held-out text."""
    answered: float
    """Share of all memories whose answers are the likeliest; 1 when there are none."""


def truncate(total: DeltaSum, workspace: Workspace, metric: DampedCurvature, rank: int) -> tuple[Delta, dict[str, Residual]]:
    """The best change of rank `rank`, or of what rank the largest layer has room for, and what it leaves out of each layer."""
    rank = min(rank, max(min(w.shape) for w in workspace.base_weights.values()))
    factors, residuals = {}, {}
    for name, weight in workspace.base_weights.items():
        change = total.totals.get(name)
        if change is None:
            change = torch.zeros_like(weight, dtype=torch.float64)
        inner, outer = _root(metric.A[name], metric.damping_A[name]), _root(metric.B[name], metric.damping_B[name])
        factors[name] = left, right = nearest(change, inner, outer, rank)
        missing = change - left.double() @ right.double().T
        residuals[name] = Residual(_ratio(outer.T @ missing @ inner, outer.T @ change @ inner), _ratio(missing, change))
    return Delta(factors), residuals


def nearest(change: Tensor, inner: Tensor, outer: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the matrix of rank `rank` nearest to `change` (d_out, d_in): outer^T (change - left right^T) inner is smallest.

    inner, outer: Cholesky factors, lower, float64. Returns (d_out, rank), (d_in, rank), float32; zeros beyond full rank.
    """
    u, s, vt = torch.linalg.svd(outer.T @ change @ inner, full_matrices=False)
    root = s[:rank].sqrt()
    left = torch.linalg.solve_triangular(outer.T, u[:, :rank] * root, upper=True)
    right = torch.linalg.solve_triangular(inner.T, vt[:rank].T * root, upper=True)
    spare = (0, rank - len(root))
    return torch.nn.functional.pad(left, spare).float(), torch.nn.functional.pad(right, spare).float()


@torch.no_grad()
def probe(workspace: Workspace, guard: Guard, memories: Sequence[Memory], weights: Mapping[str, Tensor]) -> Probes:
    """Measure `weights`, which are left installed."""
    workspace.install(weights)
    return Probes(guard.held_out_kl(), sum(remembered(workspace, memories)) / len(memories) if memories else 1.0)


def peft_files(workspace: Workspace, delta: Delta) -> dict[str, bytes]:
    """Name -> content of what `PeftModel.from_pretrained` reads; all factors of one rank."""
    tensors = {}
    for name, (left, right) in delta.factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = right.T.contiguous().cpu()
        tensors[f"base_model.model.{name}.lora_B.weight"] = left.contiguous().cpu()
    rank = next(iter(delta.factors.values()))[0].shape[1]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": workspace.base.source,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(delta.factors),
        "fan_in_fan_out": any(isinstance(workspace.model.get_submodule(name), Conv1D) for name in delta.factors),
        "inference_mode": True,
    }
    return {
        "adapter_config.json": json.dumps(settings, indent=2).encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
    }


def _root(matrix: Tensor, damping: float) -> Tensor:
    """Lower Cholesky factor of matrix + damping * I, float64."""
    wide = matrix.double()
    root: Tensor = torch.linalg.cholesky(wide + max(damping, 1e-30) * torch.eye(len(wide), dtype=wide.dtype, device=wide.device))
    return root


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Of two Frobenius norms; 0 where there is nothing."""
    norm = float(torch.linalg.norm(whole))
    return float(torch.linalg.norm(part)) / norm if norm else 0.0
