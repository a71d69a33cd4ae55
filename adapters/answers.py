"""Curvature at sure answers: second moments of the target layers where the base model answers what it knows.

Sampled text says little of how facts are looked up, and K-FAC averages over positions as if a layer's inputs and gradients were
independent. Here each input counts by the squared norm of its gradient, and each gradient by that of its input: the positions
that decide an answer decide the metric. Half of it, half the curvature of text, was better in all that is measured
(docs/LOG.md), most of all in how much lessons disturb each other.

Covered: measuring, mixing. Not covered: which answers (`anchors.py`).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adapters.capture import Capture
from adapters.curvature import Curvature, Progress
from adapters.memory import Memory, relearn
from adapters.workspace import Workspace

TEMPERATURE = 2.0
"""Of the answers' labels: at 1, what is sure has no gradient, and the surest would count least."""
ROWS = 64
"""Answers run together."""


def mix_answers(
    workspace: Workspace, text: Curvature, memories: Sequence[Memory], most: int, progress: Progress = lambda _: None
) -> Curvature:
    """`text` with half of each factor replaced by that of up to `most` of `memories`, in the same units.

    `text` itself if there are none.
    """
    chosen = random.Random(0).sample(list(memories), min(most, len(memories)))
    if not chosen:
        return text
    workspace.install(workspace.base_weights)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for done in range(0, len(chosen), ROWS):
        for name, (x, d) in _terms(workspace, chosen[done : done + ROWS]).items():
            by_gradient, by_input = x * d.norm(dim=-1, keepdim=True), d * x.norm(dim=-1, keepdim=True)
            inputs[name] = inputs.get(name, 0) + by_gradient.T @ by_gradient
            outputs[name] = outputs.get(name, 0) + by_input.T @ by_input
        progress(min(1.0, (done + ROWS) / len(chosen)))
    return replace(text, inputs=_halves(text.inputs, inputs), outputs=_halves(text.outputs, outputs))


def _terms(workspace: Workspace, memories: Sequence[Memory]) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Of the NLL of labels sampled in place of the answers, at real positions."""
    lesson = relearn(workspace, memories)
    with Capture(workspace.model, workspace.targets) as capture:
        logits = workspace.logits(lesson.batch)[:, :-1].float() / TEMPERATURE
        labels = torch.distributions.Categorical(logits=logits.detach()).sample()  # type: ignore[no-untyped-call]
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(lesson.required)
        workspace.pace()
        found = capture.terms((nll * lesson.required).sum())
    real = lesson.batch.mask.flatten().bool()
    return {name: (x[real], d[real]) for name, (x, d) in found.items()}


def _halves(text: Mapping[str, Tensor], answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of both; the second one scaled to the mean diagonal of the first."""
    scales = {n: m.diagonal().mean() / answers[n].diagonal().mean().clamp(min=1e-30) for n, m in text.items()}
    return {n: (m + scales[n] * answers[n]) / 2 for n, m in text.items()}
