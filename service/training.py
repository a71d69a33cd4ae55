"""Make what a new model needs to learn well: its curvature, its anchors and its token scorer, without labels.

Covered: measuring, self-written tasks, targets, fit, files. Not covered: judging the result on a stream (`benchmarks/`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from adapters.curvature import DampedCurvature
from adapters.curvature import Progress as Report
from adapters.errors import AdapterError
from adapters.measured import ANCHORS, CURVATURE, SCORER, anchors_of, curvature_of, save_into
from adapters.scorer_training import Example, fit_scorer, make_example
from adapters.targets import find_targets
from adapters.tasks import self_written_tasks
from adapters.views import prompt_ids
from adapters.workspace import Workspace
from service.model import load_model, load_template
from service.settings import Settings

SEED = 0
WINDOW = 256
"""Tokens of a text that tasks are written about."""


@dataclass(frozen=True)
class Trained:
    """What was written, and from how much."""

    curvature: Path
    anchors: Path
    scorer: Path
    tasks: int
    seconds: float


def train(settings: Settings, wanted: int, corpus: Sequence[str], into: Path | None, progress: Progress) -> Trained:
    """Measure, write tasks, compute targets, fit, save.

    Raises:
        AdapterError: the model wrote no view that its own text bears out; its template is wrong, or it cannot read.
    """
    started = time.perf_counter()
    torch.manual_seed(SEED)
    base = load_model(settings)
    workspace = Workspace(base, find_targets(base.model, settings.learn.targets))
    template = load_template(settings, base)
    directory = into or settings.cache_dir / base.digest
    cache, config = settings.cache_dir, settings.learn
    anchors = anchors_of(workspace, template, cache, config.anchors, _bar(progress, "sampling anchors"))
    curvature = curvature_of(workspace, anchors, cache, config.curvature, _bar(progress, "measuring curvature"))
    window = min(WINDOW, base.context - len(prompt_ids(base, template, "")) - settings.learn.views.max_new_tokens)
    tasks = self_written_tasks(workspace, template, settings.learn.views, wanted, window, corpus, _bar(progress, "writing tasks"))
    if not tasks:
        raise AdapterError(
            "the model wrote no question whose answer its own text bears out; "
            "give --view-prompt a template that it understands, or texts with --corpus"
        )
    damped = DampedCurvature(curvature, settings.learn.fold, base.device)
    report = _bar(progress, "computing targets")
    examples: list[Example] = []
    for task in tasks:
        workspace.install(workspace.base_weights)
        examples.append(make_example(workspace, task, damped))
        report(len(examples) / len(tasks))
    scorer = fit_scorer(examples, progress=_bar(progress, "fitting the scorer"))
    return Trained(
        save_into(directory, CURVATURE, curvature.save),
        save_into(directory, ANCHORS, anchors.save),
        save_into(directory, SCORER, lambda path: scorer.save(path, base.digest)),
        len(tasks),
        time.perf_counter() - started,
    )


def _bar(progress: Progress, description: str) -> Report:
    task = progress.add_task(description, total=1.0)
    return lambda share: progress.update(task, completed=share)
