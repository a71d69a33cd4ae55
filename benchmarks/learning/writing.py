"""The views that infold's learner would write of a document, for methods that learn from the same."""

from adapters.views import View, borne_out, write_views
from adapters.workspace import Workspace
from benchmarks.learning.ground import Ground


def written_views(ground: Ground, workspace: Workspace, document: str) -> list[View]:
    """Views that the document bears out."""
    config = ground.config.views
    workspace.install(workspace.base_weights)
    views = write_views(workspace, ground.template, document, config, seed=0)
    good = borne_out(workspace, ground.template, views, document, config.plausible)
    return [view for view, kept in zip(views, good, strict=True) if kept]
