"""Infold itself, through the same learner that the server runs.

Covered: one namespace, every switch of its configuration. Not covered: HTTP, versions on disk (`benchmarks/stream.py`).
"""

from torch import nn

from adapters.delta import DeltaSum
from adapters.importance import TokenScorer
from adapters.learner import Learner
from adapters.memory import Memory
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method
from benchmarks.learning.streams import Step


class Infold(Method):
    """View, weigh, fold, guard: the settings that ship, tuned on no stream of the report."""

    title = "infold"
    source = "this repository, default settings"

    def __init__(self, ground: Ground, knobs: Knobs, scorer: TokenScorer | None = None) -> None:
        super().__init__(ground, knobs)
        self._workspace = ground.workspace()
        self._learner = Learner(
            self._workspace, ground.curvature, ground.anchors, scorer or ground.scorer, ground.template, ground.config
        )
        self._total = DeltaSum(self._workspace.base_weights)
        self._memories: list[Memory] = []
        self._turn = self._rejected = self._without_views = 0

    def learn(self, step: Step) -> None:
        """See `Method`."""
        learned = self._learner.learn(step.text, self._total, self._memories, self._turn)
        self._total, self._turn = learned.total, self._turn + 1
        self._memories += learned.memories
        self._rejected += learned.report.rejection is not None
        self._without_views += bool(learned.report.folds) and not learned.report.views

    def notes(self) -> dict[str, float]:
        """See `Method`."""
        return {"rejected": self._rejected, "without_views": self._without_views, "lessons": len(self._memories)}

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        self._workspace.install(self._total.weights())
        return self._workspace.model
