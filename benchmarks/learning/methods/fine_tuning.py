"""Full fine-tuning: every weight follows the document's own loss."""

from torch import nn

from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step


class FineTuning(Method):
    """AdamW on all weights, a few steps on each document."""

    title = "full fine-tuning"
    source = "AdamW on the document's next-token loss"
    grid = {"rate": (1e-4, 3e-5, 3e-4, 1e-3), "steps": (10, 3, 30)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        train(self._model.parameters(), lambda: mean_loss(self._model, batch), int(self.knobs["steps"]), self.knobs["rate"])

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
