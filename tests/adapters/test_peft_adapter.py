"""A version as a LoRA adapter: nothing of its rank is nearer in the metric, and PEFT makes of it the very same model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters.config import FoldConfig, GuardConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta, DeltaSum
from adapters.drift import Guard
from adapters.memory import of_answer, remembered
from adapters.peft_adapter import nearest, peft_files, probe, truncate
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
D_OUT, D_IN = 7, 11


def spd(size: int, spread: float = 3.0) -> Tensor:
    """A symmetric positive definite matrix that is far from the identity."""
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(-spread, spread, size, 2.0, dtype=torch.float64)) @ q.T


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    """A change, and the Cholesky factors of A and B."""
    change = torch.randn(D_OUT, D_IN, dtype=torch.float64)
    return change, torch.linalg.cholesky(spd(D_IN)), torch.linalg.cholesky(spd(D_OUT))


def summed(workspace: Workspace, rank: int = 6) -> DeltaSum:
    """A version whose every layer changed, noticeably."""
    total = DeltaSum(workspace.base_weights)
    shapes = {name: weight.shape for name, weight in workspace.base_weights.items()}
    total.add(
        Delta({n: (0.2 * torch.randn(rows, rank), 0.2 * torch.randn(columns, rank)) for n, (rows, columns) in shapes.items()})
    )
    return total


def damped(workspace: Workspace, measure: Measure) -> DampedCurvature:
    return DampedCurvature(measure(workspace), FoldConfig(), workspace.base.device)


def test_at_full_rank_it_is_the_change_itself(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    left, right = nearest(*problem, D_OUT)
    assert torch.allclose(left.double() @ right.double().T, problem[0], atol=1e-5)


@pytest.mark.parametrize("rank", range(1, D_OUT + 1))
def test_the_error_in_the_metric_is_the_tail_of_the_singular_values_and_no_plain_svd_is_nearer(
    problem: tuple[Tensor, Tensor, Tensor], rank: int
) -> None:
    change, inner, outer = problem

    def error(found: Tensor) -> float:
        missing = change - found
        return float((outer @ outer.T @ missing @ inner @ inner.T @ missing.T).trace().clamp(min=0).sqrt())

    left, right = nearest(change, inner, outer, rank)
    assert torch.linalg.matrix_rank(left.double() @ right.double().T, rtol=1e-5) == rank
    tail = float(torch.linalg.svdvals(outer.T @ change @ inner)[rank:].norm())
    assert error(left.double() @ right.double().T) == pytest.approx(tail, rel=1e-4, abs=1e-4)
    u, s, vt = torch.linalg.svd(change, full_matrices=False)
    assert tail <= error(u[:, :rank] * s[:rank] @ vt[:rank]) + 1e-9


def test_nothing_beside_it_is_nearer(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    """Stationarity, by automatic differentiation through both factors."""
    change, inner, outer = problem
    left, right = (factor.double().requires_grad_() for factor in nearest(change, inner, outer, 3))
    missing = outer.T @ (change - left @ right.T) @ inner
    missing.square().sum().backward()
    scale = float((outer.T @ change @ inner).norm()) * float(outer.norm() * inner.norm())
    assert left.grad is not None
    assert right.grad is not None
    assert float(left.grad.norm()) < 1e-5 * scale
    assert float(right.grad.norm()) < 1e-5 * scale


def test_beyond_full_rank_there_are_zeros(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    left, right = nearest(*problem, D_OUT + 3)
    assert (left.shape, right.shape) == ((D_OUT, D_OUT + 3), (D_IN, D_OUT + 3))
    assert not left[:, D_OUT:].any()
    assert not right[:, D_OUT:].any()


def test_residuals_fall_with_the_rank_and_are_nothing_at_the_rank_of_the_change(workspace: Workspace, measure: Measure) -> None:
    total, metric = summed(workspace, rank=6), damped(workspace, measure)
    found = [truncate(total, workspace, metric, rank)[1] for rank in (1, 3, 6, 10_000)]
    for name in workspace.base_weights:
        shares = [residuals[name].metric for residuals in found]
        assert shares[0] > shares[1] > shares[2]
        assert 0 < shares[1] < 1
        for last in found[2:]:
            assert last[name].metric < 1e-4
            assert last[name].frobenius < 1e-4


def test_a_rank_beyond_every_layer_is_that_of_the_largest(workspace: Workspace, measure: Measure) -> None:
    delta, _ = truncate(summed(workspace), workspace, damped(workspace, measure), 10**6)
    most = max(min(weight.shape) for weight in workspace.base_weights.values())
    assert {left.shape[1] for left, _ in delta.factors.values()} == {most}


def test_the_base_model_is_an_adapter_that_changes_nothing(workspace: Workspace, measure: Measure) -> None:
    delta, residuals = truncate(DeltaSum(workspace.base_weights), workspace, damped(workspace, measure), 4)
    assert not any(factor.any() for pair in delta.factors.values() for factor in pair)
    assert all((residual.metric, residual.frobenius) == (0, 0) for residual in residuals.values())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("rank", [2, 10_000])
def test_peft_makes_of_it_the_model_with_the_truncated_weights(
    kind: str, rank: int, make_workspace: MakeWorkspace, measure: Measure, tmp_path: Path
) -> None:
    workspace = make_workspace(kind)
    total = summed(workspace)
    delta, _ = truncate(total, workspace, damped(workspace, measure), rank)
    workspace.base.model.save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    for name, content in peft_files(workspace, delta).items():
        (tmp_path / "adapter" / name).write_bytes(content)
    ids = torch.randint(4, 300, (2, 20))
    with torch.no_grad():
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        plain = fresh(ids).logits
        adapted = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()(ids).logits
    truncated = DeltaSum(workspace.base_weights)
    truncated.add(delta)
    workspace.install(truncated.weights())
    expected = workspace.model(ids).logits
    assert torch.allclose(adapted, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(adapted, plain, rtol=1e-2, atol=1e-2 * float(plain.abs().max())), "it does change something"
    if rank > 6:
        workspace.install(total.weights())
        full = workspace.model(ids).logits
        assert torch.allclose(adapted, full, rtol=1e-3, atol=1e-3 * float(full.abs().max()))


def test_probes_count_all_held_out_text_and_all_memories(workspace: Workspace, measure: Measure) -> None:
    curvature = measure(workspace)
    guard = Guard(workspace, curvature.held_out, GuardConfig(probes=3), workspace.targets)
    memories = [of_answer([1, 4 + n % 90, 9], [5 + n % 200]) for n in range(150)]
    base, changed = (probe(workspace, guard, memories, w) for w in (workspace.base_weights, summed(workspace).weights()))
    assert base.kl == 0
    assert changed.kl > 0
    assert changed.answered == sum(remembered(workspace, memories)) / 150
    assert probe(workspace, guard, [], workspace.base_weights).answered == 1
