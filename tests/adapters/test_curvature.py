"""The quadratic of the old knowledge: what it is, and that the direction minimises it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.capture import Terms
from adapters.config import CurvatureConfig, FoldConfig
from adapters.curvature import Curvature, DampedCurvature, measure_curvature, sample_text
from adapters.delta import Delta
from adapters.errors import CorruptCheckpoint
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
CPU = torch.device("cpu")
CONFIG = FoldConfig(input_damping=1e-2, output_damping=3e-2)
SHAPES = {"low": (6, 9), "high": (4, 5)}
"""Layer -> (d_out, d_in)."""


def moment(size: int) -> Tensor:
    """A random second moment, of nearly full rank."""
    sample = torch.randn(2 * size, size) * torch.linspace(0.2, 2, size)
    return sample.T @ sample / len(sample)


@pytest.fixture
def made_up() -> Curvature:
    return Curvature(
        {name: moment(columns) for name, (_, columns) in SHAPES.items()},
        {name: 1e-2 * moment(rows) for name, (rows, _) in SHAPES.items()},
        torch.zeros(1, 4, dtype=torch.int64),
        "digest",
    )


@pytest.fixture
def terms() -> Terms:
    return {name: (torch.randn(7, columns), torch.randn(7, rows)) for name, (rows, columns) in SHAPES.items()}


def damped(matrix: Tensor, damping: float) -> Tensor:
    wide = matrix.double()
    return wide + damping * wide.diagonal().mean() * torch.eye(len(wide), dtype=torch.float64)


def dense(delta: Delta, name: str) -> Tensor:
    left, right = delta.factors[name]
    return left.double() @ right.double().T


def test_a_damped_inverse_is_the_inverse(made_up: Curvature) -> None:
    ready = DampedCurvature(made_up, CONFIG, CPU)
    for name in SHAPES:
        for inverse, matrix, damping in (
            (ready.inverse_A[name], made_up.inputs[name], CONFIG.input_damping),
            (ready.inverse_B[name], made_up.outputs[name], CONFIG.output_damping),
        ):
            identity = torch.eye(len(matrix), dtype=torch.float64)
            torch.testing.assert_close(inverse.double() @ damped(matrix, damping), identity, rtol=0, atol=1e-4)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 3), torch.ones(3, 3)])
def test_a_moment_without_full_rank_still_has_a_finite_inverse(matrix: Tensor) -> None:
    singular = Curvature({"layer": matrix}, {"layer": matrix}, torch.zeros(1, 1), "digest")
    ready = DampedCurvature(singular, CONFIG, CPU)
    assert ready.inverse_A["layer"].isfinite().all()
    assert ready.inverse_B["layer"].isfinite().all()


def test_the_direction_is_the_stationary_point_of_the_quadratic(made_up: Curvature, terms: Terms) -> None:
    """<G, D> + 1/2 tr((B + b I) D (A + a I) D^T), differentiated by autograd."""
    direction = DampedCurvature(made_up, CONFIG, CPU).direction(terms)
    for name, (x, d) in terms.items():
        gradient = (d.T @ x).double()
        change = dense(direction, name).requires_grad_()
        right = damped(made_up.inputs[name], CONFIG.input_damping)
        left = damped(made_up.outputs[name], CONFIG.output_damping)
        model = (gradient * change).sum() + torch.trace(left @ change @ right @ change.T) / 2
        (slope,) = torch.autograd.grad(model, change)
        assert float(slope.norm()) < 1e-4 * float(gradient.norm())


def test_the_direction_descends(made_up: Curvature, terms: Terms) -> None:
    ready = DampedCurvature(made_up, CONFIG, CPU)
    assert ready.slope(terms, ready.direction(terms)) < 0


def test_the_slope_from_factors_equals_the_dense_inner_product(made_up: Curvature, terms: Terms) -> None:
    ready = DampedCurvature(made_up, CONFIG, CPU)
    delta = Delta({name: (torch.randn(rows, 3), torch.randn(columns, 3)) for name, (rows, columns) in SHAPES.items()})
    expected = sum(float(((d.T @ x).double() * dense(delta, name)).sum()) for name, (x, d) in terms.items())
    assert ready.slope(terms, delta) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_quadratic_from_factors_equals_the_dense_trace(made_up: Curvature) -> None:
    ready = DampedCurvature(made_up, CONFIG, CPU)
    delta = Delta({name: (torch.randn(rows, 3), torch.randn(columns, 3)) for name, (rows, columns) in SHAPES.items()})
    expected = 0.0
    for name in SHAPES:
        change, A, B = dense(delta, name), made_up.inputs[name].double(), made_up.outputs[name].double()
        expected += float(torch.trace(B @ change @ A @ change.T))
    assert ready.quadratic(delta) == pytest.approx(expected, rel=1e-4)
    assert ready.quadratic(Delta.zero()) == 0


def test_the_bend_of_a_direction_is_its_quadratic(made_up: Curvature, terms: Terms) -> None:
    ready = DampedCurvature(made_up, CONFIG, CPU)
    direction = ready.direction(terms)
    assert ready.bend(terms, direction) == pytest.approx(ready.quadratic(direction), rel=1e-2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2"])
def test_measured_moments_are_symmetric_and_positive_semidefinite(
    kind: str, make_workspace: MakeWorkspace, measure: Measure
) -> None:
    workspace = make_workspace(kind)
    curvature = measure(workspace)
    assert tuple(curvature.inputs) == tuple(curvature.outputs) == workspace.targets.names
    for matrix in (*curvature.inputs.values(), *curvature.outputs.values()):
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-5, atol=0)
        eigenvalues = torch.linalg.eigvalsh(matrix.double())
        assert float(eigenvalues.min()) >= -1e-6 * float(eigenvalues.max())
        assert float(eigenvalues.max()) > 0


def test_moments_are_per_token_whatever_the_size_of_the_batch(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()

    def trace(batch: int) -> tuple[float, float]:
        torch.manual_seed(0)
        found = measure_curvature(workspace, CurvatureConfig(samples=192, length=12, batch=batch, held_out=1))
        return sum(float(m.trace()) for m in found.inputs.values()), sum(float(m.trace()) for m in found.outputs.values())

    for one, other in zip(trace(192), trace(48), strict=True):
        assert one == pytest.approx(other, rel=0.2)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_predicted_divergence_is_that_which_a_small_change_makes(kind: str, make_workspace: MakeWorkspace) -> None:
    """1/2 tr(B D A D^T) against the exact divergence on fresh text; Kronecker factors get it right but for a small factor."""
    workspace = make_workspace(kind, 1)
    curvature = measure_curvature(workspace, CurvatureConfig(samples=256, length=12, batch=64, held_out=64))
    ready = DampedCurvature(curvature, FoldConfig(), CPU)
    batch = workspace.batch(curvature.held_out.tolist())
    base = workspace.logits(batch).log_softmax(-1)
    ratios = []
    for _ in range(5):
        delta = Delta({name: (torch.randn(len(w), 4), torch.randn(w.shape[1], 4)) for name, w in workspace.base_weights.items()})
        scale = (1e-3 / ready.quadratic(delta)) ** 0.5
        workspace.install(workspace.base_weights)
        workspace.step(delta, scale)
        changed = workspace.logits(batch).log_softmax(-1)
        divergence = float((base.exp() * (base - changed)).sum(-1).mean())
        ratios.append(divergence / (scale**2 * ready.quadratic(delta) / 2))
    assert 0.5 < sum(ratios) / len(ratios) < 2


def test_measuring_uses_the_base_weights_whatever_was_installed(workspace: Workspace, measure: Measure) -> None:
    expected = measure(workspace)
    workspace.install({name: weight + 1 for name, weight in workspace.base_weights.items()})
    again = measure(workspace)
    assert all(torch.equal(again.inputs[name], expected.inputs[name]) for name in workspace.targets.names)


def test_measuring_tells_how_far_it_is(workspace: Workspace) -> None:
    shares: list[float] = []
    measure_curvature(workspace, CurvatureConfig(samples=5, length=4, batch=2, held_out=3), shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 3
    assert shares[-1] == 1


@pytest.mark.parametrize("bos", [True, False])
def test_sampled_texts_have_the_length_asked_for(bos: bool, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace("llama", bos=bos)
    text = sample_text(workspace, 5, 9)
    assert text.shape == (5, 9)
    assert 0 <= int(text.min()) <= int(text.max()) < workspace.base.model.config.vocab_size
    assert len(set(map(tuple, text.tolist()))) == 5


def test_curvature_survives_a_file_bit_for_bit(workspace: Workspace, measure: Measure, tmp_path: Path) -> None:
    curvature = measure(workspace)
    curvature.save(tmp_path / "curvature.safetensors")
    loaded = Curvature.load(tmp_path / "curvature.safetensors", workspace.base.digest)
    assert torch.equal(loaded.held_out, curvature.held_out)
    assert loaded.digest == curvature.digest
    for found, written in ((loaded.inputs, curvature.inputs), (loaded.outputs, curvature.outputs)):
        assert found.keys() == written.keys()
        assert all(torch.equal(found[name], written[name]) for name in written)


def test_a_file_holds_each_symmetric_pair_once(made_up: Curvature, tmp_path: Path) -> None:
    large = Curvature({"layer": torch.eye(200)}, {"layer": torch.eye(200)}, made_up.held_out, "digest")
    large.save(tmp_path / "curvature.safetensors")
    assert (tmp_path / "curvature.safetensors").stat().st_size < 0.6 * 2 * 4 * 200**2


def test_curvature_of_another_model_is_refused(made_up: Curvature, tmp_path: Path) -> None:
    made_up.save(tmp_path / "curvature.safetensors")
    with pytest.raises(CorruptCheckpoint, match="of base model digest, not of other"):
        Curvature.load(tmp_path / "curvature.safetensors", "other")


@pytest.mark.parametrize("keep", [0, 4, 100])
def test_a_torn_file_is_refused(keep: int, made_up: Curvature, tmp_path: Path) -> None:
    path = tmp_path / "curvature.safetensors"
    made_up.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpoint, match="cannot read"):
        Curvature.load(path, "digest")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="cannot read"):
        Curvature.load(tmp_path / "nothing", "digest")
