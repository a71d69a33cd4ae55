"""Infold with one switch thrown: what each part of the method is worth.

Covered: one named change of the configuration, or of who weighs tokens, for each ablation. Not covered: rivals (`methods/`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapters.config import (
    AnchorConfig,
    CurvatureConfig,
    FoldConfig,
    LearnConfig,
    ReflectionConfig,
    TargetConfig,
    ViewConfig,
    WeighConfig,
)
from adapters.importance import TokenScorer
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.infold import Infold
from benchmarks.learning.streams import Step

RAW = LearnConfig(views=ViewConfig(count=0), fold=FoldConfig(raw_iterations=6))
"""Token weights matter most where there are no views: of views, only answers are learned."""
OFF = 1e6
"""A damping under which a factor of the curvature is as good as the identity."""
EVERY = 1_000_000
"""More layers than any model has."""


class _Weigher(TokenScorer):
    """Weighs tokens by rule."""

    def __init__(self, hidden: int, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__(hidden)
        self.rule = rule

    def forward(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        """Weights (..., T) from each token's NLL, evidence[..., 0]."""
        del hidden
        return self.rule(evidence[..., 0])


def uniform(nll: Tensor) -> Tensor:
    """All alike."""
    return torch.ones_like(nll)


def surprise(nll: Tensor) -> Tensor:
    """As when no scorer was trained."""
    return nll


def most_surprising(nll: Tensor) -> Tensor:
    """RHO-1's share: the 30 % of highest NLL."""
    return (nll >= nll.quantile(0.7, -1, keepdim=True)).float()


@dataclass(frozen=True)
class Ablation:
    """One switch."""

    title: str
    config: LearnConfig = field(default_factory=LearnConfig)
    rule: Callable[[Tensor], Tensor] | None = None
    """Instead of the trained scorer."""
    oracle: bool = False
    """Weight on the object of each statement alone."""


ABLATIONS: dict[str, Ablation] = {
    "as-is": Ablation("none: infold as it is"),
    "no-views": Ablation("raw text instead of views (6 iterations)", RAW),
    "raw-uniform": Ablation("raw text, uniform weights", RAW, rule=uniform),
    "raw-surprise": Ablation("raw text, weights by surprise", RAW, rule=surprise),
    "raw-rho": Ablation("raw text, 30 % of highest NLL", RAW, rule=most_surprising),
    "raw-oracle": Ablation("raw text, weight on the objects (oracle)", RAW, oracle=True),
    "uniform": Ablation("views, uniform weights", rule=uniform),
    "surprise": Ablation("views, weights by surprise", rule=surprise),
    "no-threshold": Ablation("no threshold on weights", LearnConfig(weigh=WeighConfig(threshold=0.0))),
    "one-view": Ablation("no sampled view", LearnConfig(views=ViewConfig(count=1))),
    "no-left": Ablation("left curvature (outputs) off", LearnConfig(fold=FoldConfig(output_damping=OFF))),
    "no-right": Ablation("right curvature (inputs) off", LearnConfig(fold=FoldConfig(input_damping=OFF))),
    "no-lessons": Ablation("lessons have no share in the curvature", LearnConfig(curvature=CurvatureConfig(learned=0.0))),
    "no-curvature": Ablation("both off: plain gradient", LearnConfig(fold=FoldConfig(input_damping=OFF, output_damping=OFF))),
    "one-iteration": Ablation("at most 1 iteration", LearnConfig(fold=FoldConfig(iterations=1))),
    "two-iterations": Ablation("at most 2 iterations", LearnConfig(fold=FoldConfig(iterations=2))),
    "over-learn": Ablation("target NLL .1 instead of .5", LearnConfig(fold=FoldConfig(target_nll=0.1))),
    "last-layer": Ablation("last layer only", LearnConfig(targets=TargetConfig(last_layers=1))),
    "all-layers": Ablation("all layers, not the upper half", LearnConfig(targets=TargetConfig(last_layers=EVERY))),
    "no-replay": Ablation("no rehearsal of lessons", LearnConfig(reflection=ReflectionConfig(recalled=0))),
    "no-review": Ablation(
        "no review (consolidation): what was lost is not folded again", LearnConfig(reflection=ReflectionConfig(reviewed=0))
    ),
    "no-anchors": Ablation("no anchors", LearnConfig(anchors=AnchorConfig(questions=0))),
    "no-reflection": Ablation(
        "neither rehearsal, review nor anchors",
        LearnConfig(anchors=AnchorConfig(questions=0), reflection=ReflectionConfig(recalled=0, anchored=0, reviewed=0)),
    ),
}


class Ablated(Infold):
    """Infold with one switch thrown."""

    def __init__(self, ground: Ground, ablation: Ablation) -> None:
        self._ablation, self._hidden = ablation, int(ground.base.model.config.hidden_size)
        changed = replace(ground, config=ablation.config)
        super().__init__(changed, {}, None if ablation.rule is None else _Weigher(self._hidden, ablation.rule))

    def learn(self, step: Step) -> None:
        """See `Method`."""
        if self._ablation.oracle:
            self._learner.scorer = _Weigher(self._hidden, self._objects(step))
        super().learn(step)

    def _objects(self, step: Step) -> Callable[[Tensor], Tensor]:
        """A rule that weighs the tokens of the step's answers."""
        base = self.ground.base
        encoded = base.tokenizer(step.text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(step.text.index(s) + s.index(a.answer), len(a.answer)) for s, a in zip(step.statements, step.asked, strict=True)]
        inside = [any(start < end and first < start + size for start, size in spans) for first, end in encoded["offset_mapping"]]
        wanted = torch.tensor(([False] * len(base.start) + inside)[1:], dtype=torch.float32)
        return lambda nll: wanted.expand_as(nll)
