"""The learner of a base model, with all that was measured of it, or is measured now."""

from collections.abc import Callable

import structlog

from adapters.learner import Learner
from adapters.measured import anchors_of, curvature_of, find_scorer
from adapters.workspace import Workspace
from service.model import load_template
from service.settings import Settings

log = structlog.get_logger()


def make_learner(settings: Settings, workspace: Workspace) -> Learner:
    """Find or measure anchors and curvature, which may take minutes; find a scorer."""
    base = workspace.base
    template, cache, learn = load_template(settings, base), settings.cache_dir, settings.learn
    anchors = anchors_of(workspace, template, cache, learn.anchors, _log_progress("anchors"))
    curvature = curvature_of(workspace, anchors, cache, learn.curvature, _log_progress("curvature"))
    scorer = find_scorer(base, cache)
    if scorer is None:
        log.warning(
            f"no scorer is trained for this model: tokens are weighted by surprise; run `infold train-scorer {base.source}`"
        )
    learner = Learner(workspace, curvature, anchors, scorer, template, learn)
    log.info("learning", curvature_layers=len(curvature.inputs), anchors=len(anchors.memories), scorer=scorer is not None)
    return learner


def _log_progress(what: str) -> Callable[[float], None]:
    return lambda share: log.info(f"measuring {what}", percent=round(100 * share))
