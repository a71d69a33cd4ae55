"""The metric that folds are made under: the base model's curvature, with a share for what has been learned since.

The base model's curvature knows nothing of the lessons, so a fold disturbs them freely and only rehearsal holds them. Counting
where their answers are decided (`answers.py`) makes folds keep out of each other's way; EMCL (Zou, Lin 2022) does the same with
the diagonal Fisher information of earlier tasks.

Lessons are counted in blocks, at the base weights, so that the metric is a function of the base model and the lessons alone: the
same after a restart, which may give back what was counted before it, and for each namespace its own. A ready metric holds three
matrices for each of the base model's two, so only a few are kept; further namespaces are counted anew at each document of theirs.

Covered: blocks, a few metrics kept ready. Not covered: the mixture (`answers.py`), inverses (`curvature.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.answers import Counted, Moments, measure_answers
from adapters.config import CurvatureConfig, FoldConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.memory import Memory
from adapters.workspace import Workspace

READY = 2
"""Metrics kept ready: of the namespaces that learned last."""


@dataclass(frozen=True)
class _Ready:
    """A metric, and what was counted for it."""

    lessons: tuple[Memory, ...]
    moments: Moments
    damped: DampedCurvature


class Metric:
    """The curvature for each state of what was learned."""

    def __init__(self, workspace: Workspace, curvature: Curvature, config: CurvatureConfig, fold: FoldConfig) -> None:
        self._workspace, self._config, self._fold = workspace, config, fold
        self._curvature = curvature.only(workspace.targets.names)
        self._base = DampedCurvature(self._curvature, fold, workspace.base.device)
        self._ready: list[_Ready] = []

    def after(self, lessons: Sequence[Memory]) -> DampedCurvature:
        """The metric once `lessons` are learned. The base weights may be left installed.

        Only whole blocks count, so most calls find it ready. A new block costs a forward and backward pass over its answers, and
        the inverses.
        """
        block = self._config.block
        counted = tuple(lessons[: len(lessons) // block * block])
        if not counted or self._config.learned == 0:
            return self._base
        known = max(
            (r for r in self._ready if r.lessons == counted[: len(r.lessons)]),
            key=lambda r: len(r.lessons),
            default=_Ready((), Moments(), self._base),
        )
        if len(known.lessons) < len(counted):
            moments = known.moments
            for start in range(len(known.lessons), len(counted), block):
                moments = measure_answers(self._workspace, counted[start : start + block], moments)
            known = self._made(counted, moments)
        self._keep(known)
        return known.damped

    def counted(self, lessons: Sequence[Memory]) -> Counted | None:
        """What has been counted of `lessons`, for `resume`; None: nothing."""
        ready = [r for r in self._ready if r.lessons == tuple(lessons[: len(r.lessons)])]
        longest = max(ready, key=lambda r: len(r.lessons), default=None)
        return None if longest is None else Counted(len(longest.lessons), longest.moments)

    def resume(self, lessons: Sequence[Memory], counted: Counted) -> None:
        """Go on from what was counted of the first of `lessons`, if it is of this model's layers and of whole blocks."""
        layers = self._curvature.inputs.keys()
        whole = 0 < counted.lessons <= len(lessons) and counted.lessons % self._config.block == 0
        if whole and counted.moments.inputs.keys() == counted.moments.outputs.keys() == layers and self._config.learned > 0:
            self._keep(self._made(tuple(lessons[: counted.lessons]), counted.moments.to(self._workspace.base.device)))

    def _made(self, lessons: tuple[Memory, ...], moments: Moments) -> _Ready:
        mixed = moments.mixed_into(self._curvature, self._config.learned)
        return _Ready(lessons, moments, DampedCurvature(mixed, self._fold, self._workspace.base.device))

    def _keep(self, known: _Ready) -> None:
        others = [r for r in self._ready if r.lessons != known.lessons[: len(r.lessons)]]
        self._ready = [known, *others][:READY]
