"""RHO-1 (Lin et al. 2024): learn only the tokens on which a reference model does better than the model being trained.

Covered: the selective loss; the reference as a copy that has trained on the document before. Differs: the paper's reference
is trained once, on a curated corpus. None such is at hand that tells anything of a stream of new facts: a reference that
has never seen them gives their tokens no excess loss, and would have the rival learn everything but them.
"""

import torch
from torch import Tensor, nn

from adapters.workspace import Batch
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, losses, mean_loss, train
from benchmarks.learning.streams import Step

REFERENCE_RATE = 3e-4
REFERENCE_STEPS = 10
"""The reference learns the document, but not by heart."""


class Rho1(Method):
    """AdamW on the share of tokens with the most excess loss, chosen anew at each step."""

    title = "RHO-1"
    source = "Lin et al. 2024; the reference is the base model fine-tuned for 10 steps on the document that is about to be learned"
    grid = {"rate": (1e-4, 3e-4), "steps": (10, 3), "keep": (0.6, 0.3, 0.15)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        reference = self._reference_losses(batch)
        train(
            self._model.parameters(), lambda: self._selective_loss(batch, reference), int(self.knobs["steps"]), self.knobs["rate"]
        )

    def _reference_losses(self, batch: Batch) -> Tensor:
        """(B, T-1) NLL of a base model that has read the document."""
        reference = self.ground.model()
        train(reference.parameters(), lambda: mean_loss(reference, batch), REFERENCE_STEPS, REFERENCE_RATE)
        with torch.no_grad():
            return losses(reference, batch)

    def _selective_loss(self, batch: Batch, reference: Tensor) -> Tensor:
        """Mean NLL of the tokens kept: the paper's equation 4."""
        nll = losses(self._model, batch)
        excess = (nll.detach() - reference).masked_fill(batch.predicted == 0, -torch.inf).flatten()
        kept = excess.topk(max(1, round(self.knobs["keep"] * float(batch.predicted.sum())))).indices
        return nll.flatten()[kept].mean()

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
