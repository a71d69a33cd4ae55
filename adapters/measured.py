"""What was measured of a base model, once: its curvature, its anchors and its token scorer, as files.

    <model directory>/{curvature,anchors,scorer}.safetensors     shipped with the weights
    <cache>/<base digest>/{curvature,anchors,scorer}.safetensors     measured here

All name the base model's digest and are refused for any other. Files are written under a temporary name and renamed:
a crash leaves none.

Covered: finding, measuring once, whole files. Not covered: what is measured (`curvature.py`, `scorer_training.py`).
"""

import os
from collections.abc import Callable
from pathlib import Path

from adapters.anchors import Anchors, sample_anchors
from adapters.answers import mix_answers
from adapters.base_model import BaseModel
from adapters.config import AnchorConfig, CurvatureConfig
from adapters.curvature import Curvature, Progress, measure_curvature
from adapters.errors import CorruptCheckpoint
from adapters.importance import TokenScorer
from adapters.views import ViewTemplate
from adapters.workspace import Workspace

ANCHORS = "anchors.safetensors"
CURVATURE = "curvature.safetensors"
SCORER = "scorer.safetensors"


def find_curvature(base: BaseModel, cache: Path, layers: tuple[str, ...]) -> Curvature | None:
    """Curvature of `base` that covers `layers`, if it was measured before."""
    for path in _places(base, cache, CURVATURE):
        try:
            curvature = Curvature.load(path, base.digest)
        except CorruptCheckpoint:
            continue  # of other weights, or torn: measuring again is always right
        if set(layers) <= curvature.inputs.keys():
            return curvature
    return None


def curvature_of(
    workspace: Workspace, anchors: Anchors, cache: Path, config: CurvatureConfig, progress: Progress = lambda _: None
) -> Curvature:
    """Curvature found, or measured now, on text and on `anchors`, and kept."""
    found = find_curvature(workspace.base, cache, workspace.targets.names)
    if found is not None:
        return found
    text = measure_curvature(workspace, config, lambda share: progress(0.8 * share))
    curvature = mix_answers(workspace, text, anchors.memories, config.answers, lambda share: progress(0.8 + 0.2 * share))
    progress(1.0)
    save_into(cache / workspace.base.digest, CURVATURE, curvature.save)
    return curvature


def find_anchors(base: BaseModel, cache: Path) -> Anchors | None:
    """Anchors of `base`, if they were sampled before."""
    for path in _places(base, cache, ANCHORS):
        try:
            return Anchors.load(path, base.digest)
        except CorruptCheckpoint:
            continue
    return None


def anchors_of(
    workspace: Workspace,
    template: ViewTemplate,
    cache: Path,
    config: AnchorConfig,
    progress: Progress = lambda _: None,
) -> Anchors:
    """Anchors found, or sampled now and kept."""
    if config.questions == 0:
        return Anchors((), workspace.base.digest)
    found = find_anchors(workspace.base, cache)
    if found is None:
        found = sample_anchors(workspace, template, config, progress)
        save_into(cache / workspace.base.digest, ANCHORS, found.save)
    return found


def find_scorer(base: BaseModel, cache: Path) -> TokenScorer | None:
    """The scorer trained for `base`, if there is one."""
    for path in _places(base, cache, SCORER):
        try:
            return TokenScorer.load(path, base.digest).to(base.device)
        except CorruptCheckpoint:
            continue
    return None


def save_into(directory: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Call `write` with a temporary path in `directory` and rename what it wrote to `name`."""
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f".{name}.{os.getpid()}"
    write(unfinished)
    return unfinished.rename(directory / name)


def _places(base: BaseModel, cache: Path, name: str) -> list[Path]:
    """Files of that name: what was measured here goes before what was shipped."""
    return [p for p in (cache / base.digest / name, Path(base.source) / name) if p.is_file()]
