"""RecAdam (Chen et al. 2020): Adam that first recalls the pretrained weights and then, annealed, learns the new task.

Covered: the decoupled quadratic penalty and its sigmoid annealing. Differs: every document is a task, so the annealing
starts anew with each and is as long as the document's steps, where the paper has hundreds.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step

MIDDLE = 0.25
"""Where the annealing is halfway (the paper's t0), as a share of a document's steps."""
STEEPNESS = 10.0
"""The paper's k, times the steps."""


class RecallingAdam(torch.optim.Adam):
    """The paper's algorithm 1. The penalty is decoupled: it does not pass through Adam's moments."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], pretrained: Iterable[Tensor], rate: float, strength: float, steps: int
    ) -> None:
        self._parameters, self._pretrained = list(parameters), list(pretrained)
        super().__init__(self._parameters, lr=rate, betas=(0.9, 0.99), fused=True)
        self._rate, self._strength, self._steps, self._done = rate, strength, steps, 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of recall and of learning, by turns weighted."""
        self._done += 1
        learning = 1 / (1 + math.exp(-STEEPNESS * (self._done / self._steps - MIDDLE)))
        pull = min(1.0, self._rate * self._strength * (1 - learning))
        for parameter, pretrained in zip(self._parameters, self._pretrained, strict=True):
            parameter.lerp_(pretrained, pull)
        self.param_groups[0]["lr"] = self._rate * learning
        super().step(closure)


class RecAdam(Method):
    """Adam pulled to the pretrained weights, less and less as a document's steps go on."""

    title = "RecAdam"
    source = "Chen et al. 2020; annealed anew for each document, over its own steps"
    grid = {"rate": (3e-4, 1e-4), "steps": (10, 30), "strength": (10.0, 100.0, 30.0)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()
        self._pretrained = [p.detach().clone() for p in self._model.parameters()]

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        rate, steps = self.knobs["rate"], int(self.knobs["steps"])
        optimizer = RecallingAdam(self._model.parameters(), self._pretrained, rate, self.knobs["strength"], steps)
        train(self._model.parameters(), lambda: mean_loss(self._model, batch), steps, rate, optimizer)

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
