"""Curvature at sure answers: second moments of the target layers where the base model answers what it knows.

Sampled text says little of how facts are looked up, and K-FAC averages over positions as if a layer's inputs and gradients were
independent. Here each input counts by the squared norm of its gradient, and each gradient by that of its input: the positions
that decide an answer decide the metric. Half of it, half the curvature of text, was better in all that is measured
(docs/LOG.md), most of all in how much lessons disturb each other.

Covered: measuring, mixing. Not covered: which answers (`anchors.py`, `metric.py`).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapters.capture import Capture, Terms
from adapters.curvature import Curvature, Progress
from adapters.memory import Memory, relearn
from adapters.workspace import Workspace

TEMPERATURE = 2.0
"""Of the answers' labels: at 1, what is sure has no gradient, and the surest would count least."""
ROWS = 64
"""Answers run together."""


@dataclass(frozen=True)
class Moments:
    """Sums over positions, in units of their own."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer -> (d_in, d_in): inputs, each by its gradient."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer -> (d_out, d_out): gradients, each by its input."""

    def plus(self, terms: Terms) -> "Moments":
        """With these terms counted too."""
        inputs, outputs = dict(self.inputs), dict(self.outputs)
        for name, (x, d) in terms.items():
            by_gradient, by_input = x * d.norm(dim=-1, keepdim=True), d * x.norm(dim=-1, keepdim=True)
            inputs[name] = inputs.get(name, 0) + by_gradient.T @ by_gradient
            outputs[name] = outputs.get(name, 0) + by_input.T @ by_input
        return Moments(inputs, outputs)

    def to(self, device: torch.device) -> "Moments":
        """The same there."""
        return Moments({n: m.to(device) for n, m in self.inputs.items()}, {n: m.to(device) for n, m in self.outputs.items()})

    def mixed_into(self, curvature: Curvature, share: float) -> Curvature:
        """`curvature` with `share` of each factor replaced by these, scaled to its mean diagonal."""
        return replace(
            curvature,
            inputs=_mixture(curvature.inputs, self.inputs, share),
            outputs=_mixture(curvature.outputs, self.outputs, share),
        )


@dataclass(frozen=True)
class Counted:
    """Moments of the first so many lessons of a version."""

    lessons: int
    moments: Moments


def measure_answers(
    workspace: Workspace, memories: Sequence[Memory], moments: Moments = Moments(), progress: Progress = lambda _: None
) -> Moments:
    """`moments`, and those of the answers of `memories` at the base weights, which are left installed."""
    workspace.install(workspace.base_weights)
    generator = torch.Generator(workspace.base.device).manual_seed(0)
    for done in range(0, len(memories), ROWS):
        moments = moments.plus(_terms(workspace, memories[done : done + ROWS], generator))
        progress(min(1.0, (done + ROWS) / len(memories)))
    return moments


def mix_answers(
    workspace: Workspace, text: Curvature, memories: Sequence[Memory], most: int, progress: Progress = lambda _: None
) -> Curvature:
    """`text` with half of each factor replaced by that of up to `most` of `memories`.

    `text` itself if there are none.
    """
    chosen = random.Random(0).sample(list(memories), min(most, len(memories)))
    return measure_answers(workspace, chosen, progress=progress).mixed_into(text, 0.5) if chosen else text


def _terms(workspace: Workspace, memories: Sequence[Memory], generator: torch.Generator) -> Terms:
    """Of the NLL of labels sampled in place of the answers, at real positions."""
    lesson = relearn(workspace, memories)
    with Capture(workspace.model, workspace.targets) as capture:
        logits = (workspace.logits(lesson.batch)[:, :-1].float() / TEMPERATURE).flatten(0, 1)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none").view_as(lesson.required)
        workspace.pace()
        found = capture.terms((nll * lesson.required).sum())
    real = lesson.batch.mask.flatten().bool()
    return {name: (x[real], d[real]) for name, (x, d) in found.items()}


def _mixture(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The second one is scaled to the mean diagonal of the first."""
    scales = {n: m.diagonal().mean() / new[n].to(m.device).diagonal().mean().clamp(min=1e-30) for n, m in old.items()}
    return {n: (1 - share) * m + share * scales[n] * new[n].to(m.device) for n, m in old.items()}
