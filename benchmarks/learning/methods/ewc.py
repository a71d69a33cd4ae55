"""Elastic weight consolidation (Kirkpatrick et al. 2017): weights that old knowledge rests on are held to their old values.

Covered: the diagonal Fisher of the base model, the quadratic penalty. Differs: the old task is text sampled from the base
model, so the text's own next tokens are the sampled labels. The penalty knows nothing of documents learned before.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from adapters.workspace import Batch
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step


@lru_cache(maxsize=1)
def diagonal_fisher(ground: Ground) -> list[Tensor]:
    """E[(d log p / d weight)^2] of each parameter of the base model, over preserved text, per token.

    The squares are of whole texts' gradients, one text at a time: cross terms of tokens are zero in expectation.
    """
    model = ground.model()
    fisher = [torch.zeros_like(p) for p in model.parameters()]
    for text in ground.preserved:
        batch = Batch(text[None], torch.ones_like(text[None]))
        nll = mean_loss(model, batch) * batch.predicted.sum()
        for total, gradient in zip(fisher, torch.autograd.grad(nll, list(model.parameters())), strict=True):
            total.addcmul_(gradient, gradient)
    return [total / (ground.preserved.numel() - len(ground.preserved)) for total in fisher]


class Ewc(Method):
    """AdamW on the document's loss and the penalty."""

    title = "EWC"
    source = "Kirkpatrick et al. 2017; diagonal Fisher over text sampled from the base model, pulling to the base weights"
    grid = {"rate": (1e-4, 3e-4), "steps": (10, 30), "strength": (30.0, 100.0, 1e3)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()
        self._old = [p.detach().clone() for p in self._model.parameters()]
        self._fisher = diagonal_fisher(ground)

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        train(
            self._model.parameters(),
            lambda: mean_loss(self._model, batch) + self._penalty(),
            int(self.knobs["steps"]),
            self.knobs["rate"],
        )

    def _penalty(self) -> Tensor:
        """strength / 2 * sum F (weight - old)^2."""
        triples = zip(self._model.parameters(), self._old, self._fisher, strict=True)
        return self.knobs["strength"] / 2 * torch.stack([(f * (p - old).square()).sum() for p, old, f in triples]).sum()

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
