"""Frozen settings of each step of the method, checked once, on construction.

Covered: ranges. Not covered: where values come from (flags, environment and files are the server's business).
Every value below was chosen by measurement; the numbers stand in docs/LOG.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from adapters.errors import InvalidConfig

REFUSE_UNKNOWN: Mapping[str, str] = {"extra": "forbid"}
"""Tells whoever validates these classes from a mapping that a misspelt key is an error."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidConfig(message)


@dataclass(frozen=True)
class TargetConfig:
    """Which layers may change."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    last_layers: int | None = None
    """How many decoder layers, counted from the top, are targets; None: the upper half of them."""

    def __post_init__(self) -> None:
        _require(self.last_layers is None or self.last_layers >= 1, "targets.last_layers must be at least 1")


@dataclass(frozen=True)
class CurvatureConfig:
    """How the old knowledge is measured: text sampled from the base model itself."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    samples: int = 1536
    length: int = 64
    """Tokens per sample."""
    batch: int = 64
    held_out: int = 64
    """Samples kept aside for the guard: never part of the curvature."""
    answers: int = 3072
    """Most anchors that are measured; together they count as much as all samples."""
    learned: float = 1 / 3
    """Share of the lessons learned so far, beside text and anchors; 0: none."""
    block: int = 64
    """So many lessons are counted at a time."""

    def __post_init__(self) -> None:
        _require(self.samples >= 1 and self.held_out >= 1, "curvature needs at least one sample and one held-out sample")
        _require(self.length >= 2, "curvature.length must be at least 2 tokens")
        _require(self.batch >= 1 and self.answers >= 0, "curvature.batch must be at least 1, curvature.answers not negative")
        _require(0 <= self.learned < 1 and self.block >= 1, "curvature.learned must be in [0, 1), curvature.block at least 1")


@dataclass(frozen=True)
class ViewConfig:
    """How many views of a document the model writes, and how long they may be."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    count: int = 2
    """Views asked for per window of the document; 0: learn from the raw text alone."""
    max_new_tokens: int = 48
    temperature: float = 0.7
    """Of the views after the first, which is written greedily."""
    plausible: float = 0.05
    """A view with a token less likely than this, with the document in context, is not borne out by it."""
    known: float = 0.9
    """A view whose answer has no token less likely than this, without the document, is known. A lucky guess is learned, to last."""

    def __post_init__(self) -> None:
        _require(self.count >= 0, "views.count must not be negative")
        _require(self.max_new_tokens >= 1, "views.max_new_tokens must be at least 1")
        _require(self.temperature > 0, "views.temperature must be positive")
        _require(0 <= self.plausible < 1, "views.plausible must be in [0, 1)")
        _require(0 <= self.known <= 1, "views.known must be in [0, 1]")


@dataclass(frozen=True)
class WeighConfig:
    """Proximal threshold on token weights."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    threshold: float = 0.2
    """Weights below this share of the text's largest weight become zero."""

    def __post_init__(self) -> None:
        _require(0 <= self.threshold < 1, "weigh.threshold must be in [0, 1)")


@dataclass(frozen=True)
class FoldConfig:
    """The closed-form step."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    input_damping: float = 1e-3
    """gamma_a: added to A in units of its mean diagonal."""
    output_damping: float = 1e-1
    """gamma_b: added to B in units of its mean diagonal."""
    iterations: int = 6
    kl_budget: float = 0.1
    """kappa: most predicted KL, in nats per token of preserved text, that one iteration may spend."""
    target_nll: float = 0.5
    """Stop once the weighted mean NLL is below this."""
    required_nll: float = 0.69
    """A required token counts as learned below this NLL: up to log 2 it is then the likeliest."""
    backtracks: int = 4
    """Most halvings of a step that did not lower the loss enough."""
    keep: float = 0.1
    """Rank-one terms below this share of the largest are dropped from the gradient."""
    singular: float = 1e-2
    """Singular values of a delta below this share of the largest are not worth storing."""
    slack: float = 1e-3
    """How far the margins of what is rehearsed may change: 0 is not at all to first order, much above 1 is freely."""
    raw_iterations: int = 1
    """The same as `iterations` for raw text, the fast path."""
    raw_layers: int = 1
    """How many of the target layers, the highest, change for raw text."""

    @property
    def sure(self) -> float:
        """Least probability of each token of an answer that is given surely: that of a required token once it counts as learned."""
        return math.exp(-self.required_nll)

    def __post_init__(self) -> None:
        _require(self.input_damping > 0 and self.output_damping > 0, "fold dampings must be positive")
        _require(self.iterations >= 1, "fold.iterations must be at least 1")
        _require(self.kl_budget > 0, "fold.kl_budget must be positive")
        _require(self.target_nll > 0, "fold.target_nll must be positive")
        _require(self.required_nll > 0, "fold.required_nll must be positive")
        _require(self.backtracks >= 0, "fold.backtracks must not be negative")
        _require(0 <= self.keep < 1 and 0 <= self.singular < 1, "fold.keep and fold.singular must be in [0, 1)")
        _require(self.slack >= 0, "fold.slack must not be negative")
        _require(self.raw_iterations >= 1 and self.raw_layers >= 1, "fold.raw_iterations and fold.raw_layers must be at least 1")


@dataclass(frozen=True)
class AnchorConfig:
    """Questions that the base model answers surely: sampled once per base model."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    questions: int = 4096
    """Different questions that the base model is let ask; 0: no anchors."""
    max_new_tokens: int = 32
    """Of a question, and of an answer."""
    sure: float = 0.9
    """Least probability of each token of an answer: below, many are made up."""
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.questions >= 0, "anchors.questions must not be negative")
        _require(self.max_new_tokens >= 1, "anchors.max_new_tokens must be at least 1")
        _require(0 < self.sure <= 1, "anchors.sure must be in (0, 1]")


@dataclass(frozen=True)
class ReflectionConfig:
    """Rehearsal and review of earlier lessons and of anchors."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    recalled: int = 8
    """Earlier lessons folded together with each new one."""
    anchored: int = 8
    """The anchors nearest to a lesson that are folded with it, and as many others."""
    reviewed: int = 45
    """Earlier lessons asked again before each fold, and as many anchors; half of each are the nearest to what was learned last.
    What was lost is folded again. Where lessons are longer than anchors, fewer of them."""
    refolded: int = 4
    """Most of what was lost that is folded again with one document."""

    def __post_init__(self) -> None:
        for name in ("recalled", "anchored", "reviewed", "refolded"):
            _require(getattr(self, name) >= 0, f"reflection.{name} must not be negative")


@dataclass(frozen=True)
class GuardConfig:
    """What an update may cost before it is rejected."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    probes: int = 4
    """Held-out samples measured per update; the whole set is gone through in turns."""
    raw_probes: int = 1
    """The same for an update from raw text, the fast path."""
    raw_tokens: int = 32
    """Tokens of each sample that are measured for an update from raw text."""
    kl_step: float = 0.02
    """Most drift that one update may add, nats per token."""
    kl_total: float = 0.5
    """Most drift from the base model, nats per token."""
    earlier: int = 8
    """Earlier lessons asked per update; all are gone through in turns."""
    retention_loss: float = 0.5
    """Most loss, as a share of the earlier lessons asked, that one update may cause."""
    canary_loss: float = 0.0
    """Most canaries, as a share of all, that one update may change the answers of."""

    def __post_init__(self) -> None:
        _require(self.probes >= 1 and self.raw_probes >= 1, "guard.probes and guard.raw_probes must be at least 1")
        _require(self.raw_tokens >= 2, "guard.raw_tokens must be at least 2")
        _require(self.kl_step > 0 and self.kl_total > 0, "guard budgets must be positive")
        _require(self.earlier >= 0, "guard.earlier must not be negative")
        _require(0 <= self.retention_loss <= 1, "guard.retention_loss must be in [0, 1]")
        _require(0 <= self.canary_loss <= 1, "guard.canary_loss must be in [0, 1]")


@dataclass(frozen=True)
class LearnConfig:
    """Every setting of the learner."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = REFUSE_UNKNOWN
    targets: TargetConfig = field(default_factory=TargetConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    weigh: WeighConfig = field(default_factory=WeighConfig)
    fold: FoldConfig = field(default_factory=FoldConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    reflection: ReflectionConfig = field(default_factory=ReflectionConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
