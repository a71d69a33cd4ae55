"""EMCL: every weight follows the document at its own rate, the slower the more the old knowledge needs it.

A document is a task. To second order, a change D of the weights costs the old tasks 1/2 sum_i F_i D_i^2: the Taylor expansion
around weights where their gradient vanishes, its Hessian replaced by the diagonal Fisher F. The meta-loss of rates a is
the document's loss after the step -a g, plus that cost. Expanded likewise it is, for every weight on its own,

    -a g^2 + a^2 g^2 / (2 eta) + (strength / 2) F a^2 g^2

whose derivative in `a` is closed-form and vanishes at a = eta / (1 + eta strength F). The proximal step then minimises the
linearised loss, the distance in units of `a`, and the cost of moving from where the last task ended:

    theta <- old + (theta - a g - old) / (1 + a strength F)

Covered: all weights; each document joins the old tasks once it is learned. Not covered: mini-batches of many tasks, rates that are
learned over tasks: here they follow from the importance alone.
"""

import torch
from torch import Tensor, nn

from adapters.workspace import Batch
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, losses, mean_loss
from benchmarks.learning.streams import Step

SAMPLES = 512
"""Preserved texts that the importance is measured on: one backward pass each."""


def importance_of(ground: Ground, model: nn.Module) -> list[Tensor]:
    """Diagonal Fisher, per text: the texts are the model's own samples, so the gradient of each is a sample of the score."""
    weights = list(model.parameters())
    total = [torch.zeros_like(p) for p in weights]
    for row in ground.preserved[:SAMPLES].tolist():
        for sum_, gradient in zip(total, _text_gradient(model, ground.batch([row])), strict=True):
            sum_ += gradient.square() / SAMPLES
    return total


def _text_gradient(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """Of the text's whole NLL, not of its mean."""
    return torch.autograd.grad(losses(model, batch).sum(), list(model.parameters()))


class Emcl(Method):
    """A few proximal steps at closed-form rates on each document."""

    title = "EMCL"
    source = (
        "Zou, Lin 2022; a document is a task, the first old task is text sampled from the base model, "
        "the rates are where the closed-form meta-gradient vanishes rather than one step towards it; gradients clipped to norm 1"
    )
    grid = {"rate": (0.1, 0.03, 0.3), "strength": (0.1, 0.01, 1.0), "steps": (10,)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()
        self._weights = list(self._model.parameters())
        self._importance = importance_of(ground, self._model)
        # strengths are then comparable between models
        self._unit = sum(float(f.sum()) for f in self._importance) / sum(f.numel() for f in self._importance)

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        old = [p.detach().clone() for p in self._weights]
        for _ in range(int(self.knobs["steps"])):
            gradients = torch.autograd.grad(mean_loss(self._model, batch), self._weights)
            norm = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
            for weight, gradient, before, importance in zip(self._weights, gradients, old, self._importance, strict=True):
                self._move(weight, gradient / max(norm, 1.0), before, importance / self._unit)
        for importance, gradient in zip(self._importance, _text_gradient(self._model, batch), strict=True):
            importance += gradient.square()

    @torch.no_grad()
    def _move(self, weight: Tensor, gradient: Tensor, old: Tensor, importance: Tensor) -> None:
        """One proximal step in place."""
        eta, stiffness = self.knobs["rate"], self.knobs["strength"] * importance
        rates = eta / (1 + eta * stiffness)
        weight.copy_(old + (weight - rates * gradient - old) / (1 + rates * stiffness))

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
