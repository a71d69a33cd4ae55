"""What was measured once is found again, for this base model only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapters.anchors import Anchors
from adapters.base_model import BaseModel
from adapters.config import CurvatureConfig
from adapters.curvature import Curvature
from adapters.importance import TokenScorer
from adapters.measured import CURVATURE, SCORER, curvature_of, find_curvature, find_scorer, save_into
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
CONFIG = CurvatureConfig(samples=8, length=6, batch=4, held_out=2)
NONE = Anchors((), "")


@pytest.fixture
def shipped(make_base: Callable[..., BaseModel], make_workspace: MakeWorkspace, tmp_path: Path) -> Workspace:
    """A model whose directory exists, so that files may lie beside its weights."""
    (tmp_path / "model").mkdir()
    return make_workspace(replace(make_base(), source=str(tmp_path / "model")))


def same(one: Curvature, other: Curvature) -> bool:
    return all(torch.equal(one.inputs[n], other.inputs[n]) and torch.equal(one.outputs[n], other.outputs[n]) for n in one.inputs)


def test_curvature_is_measured_once(shipped: Workspace, tmp_path: Path) -> None:
    shares: list[float] = []
    first = curvature_of(shipped, NONE, tmp_path / "cache", CONFIG, shares.append)
    assert shares
    again = curvature_of(shipped, NONE, tmp_path / "cache", CONFIG, lambda _: pytest.fail("measured twice"))
    assert same(first, again)
    assert (tmp_path / "cache" / shipped.base.digest / CURVATURE).is_file()


def test_nothing_measured_is_nothing_found(shipped: Workspace, tmp_path: Path) -> None:
    assert find_curvature(shipped.base, tmp_path, shipped.targets.names) is None
    assert find_scorer(shipped.base, tmp_path) is None


def test_what_was_shipped_beside_the_weights_is_found(shipped: Workspace, tmp_path: Path) -> None:
    curvature = curvature_of(shipped, NONE, tmp_path / "elsewhere", CONFIG)
    curvature.save(Path(shipped.base.source) / CURVATURE)
    TokenScorer(32).save(Path(shipped.base.source) / SCORER, shipped.base.digest)
    found = find_curvature(shipped.base, tmp_path / "cache", shipped.targets.names)
    assert found is not None
    assert same(found, curvature)
    assert find_scorer(shipped.base, tmp_path / "cache") is not None


def test_what_was_measured_here_goes_before_what_was_shipped(shipped: Workspace, tmp_path: Path) -> None:
    own, other = TokenScorer(32), TokenScorer(32)
    digest = shipped.base.digest
    other.save(Path(shipped.base.source) / SCORER, digest)
    save_into(tmp_path / "cache" / digest, SCORER, lambda path: own.save(path, digest))
    found = find_scorer(shipped.base, tmp_path / "cache")
    assert found is not None
    assert torch.equal(found.norm.weight, own.norm.weight)
    assert torch.equal(found.layers[0].weight, own.layers[0].weight)


@pytest.mark.parametrize("damage", ["foreign", "torn"])
def test_files_of_another_model_or_torn_ones_are_passed_over(damage: str, shipped: Workspace, tmp_path: Path) -> None:
    directory = tmp_path / "cache" / shipped.base.digest
    directory.mkdir(parents=True)
    if damage == "torn":
        (directory / CURVATURE).write_bytes(b"half")
        (directory / SCORER).write_bytes(b"")
    else:
        TokenScorer(32).save(directory / SCORER, "other")
        replace(curvature_of(shipped, NONE, tmp_path / "elsewhere", CONFIG), digest="other").save(directory / CURVATURE)
    assert find_scorer(shipped.base, tmp_path / "cache") is None
    assert find_curvature(shipped.base, tmp_path / "cache", shipped.targets.names) is None
    curvature_of(shipped, NONE, tmp_path / "cache", CONFIG)
    assert find_curvature(shipped.base, tmp_path / "cache", shipped.targets.names) is not None


def test_curvature_of_fewer_layers_is_measured_again(shipped: Workspace, make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    top = make_workspace(shipped.base, 1)
    curvature_of(top, NONE, tmp_path, CONFIG)
    assert find_curvature(shipped.base, tmp_path, shipped.targets.names) is None
    assert set(curvature_of(shipped, NONE, tmp_path, CONFIG).inputs) == set(shipped.targets.names)
    assert find_curvature(top.base, tmp_path, top.targets.names) is not None


def test_a_crash_while_writing_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    def crash(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        save_into(tmp_path, SCORER, crash)
    assert not (tmp_path / SCORER).exists()
    assert save_into(tmp_path, SCORER, Path.touch).exists()
