"""Tasks for training a scorer, without labels: the model's own texts, and its own questions about them.

Covered: texts sampled from the model or given by the operator, views as tasks, both the text and the view as what is weighed.
Not covered: the targets and the fit (`scorer_training.py`).
"""

from collections.abc import Iterator, Sequence

from adapters.config import ViewConfig
from adapters.curvature import Progress
from adapters.sampling import continue_rows
from adapters.scorer_training import Task
from adapters.views import View, ViewTemplate, borne_out, write_views
from adapters.windows import windows
from adapters.workspace import Workspace

SAMPLED_TOKENS = 96
"""Length of a text that the model makes up."""
TOGETHER = 32
"""Texts sampled in one batch."""


def sampled_texts(workspace: Workspace, count: int) -> Iterator[str]:
    """Texts that the base model makes up at temperature 1, up to where each ends by itself, at the weights installed."""
    base = workspace.base
    ends = base.stop_ids | set(base.start)
    first = base.start or sorted(base.stop_ids)[:1] or [0]
    for done in range(0, count, TOGETHER):
        rows = min(TOGETHER, count - done)
        for ids in continue_rows(workspace, [first] * rows, SAMPLED_TOKENS, [1.0] * rows, ends):
            text = base.decode(ids).strip()
            if len(base.encode(text)) > 1:
                yield text


def self_written_tasks(
    workspace: Workspace,
    template: ViewTemplate,
    config: ViewConfig,
    wanted: int,
    window: int,
    corpus: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> list[Task]:
    """Up to `wanted` tasks: the model writes views of each text; the view's answer judges the weights of text and view.

    corpus: texts to use instead of sampled ones. Gives up when ten texts in a row per wanted task bear no view.
    """
    workspace.install(workspace.base_weights)
    tasks: list[Task] = []
    texts = corpus or sampled_texts(workspace, 10 * wanted)
    for number, text in enumerate(texts):
        for piece in (found.text for found in windows(workspace.base, text, window)):
            views = write_views(workspace, template, piece, config, number)
            good = borne_out(workspace, template, views, piece, config.plausible)
            for view in (view for view, kept in zip(views, good, strict=True) if kept):
                tasks += _tasks(workspace, template, piece, view)
        progress(min(1.0, len(tasks) / wanted))
        if len(tasks) >= wanted:
            break
    return tasks[:wanted]


def _tasks(workspace: Workspace, template: ViewTemplate, piece: str, view: View) -> list[Task]:
    base = workspace.base
    prompt, answer = view.prompt(base, template), view.continuation(base, template)
    return [Task(base.encode(piece), prompt, answer), Task(prompt + answer, prompt, answer)]
