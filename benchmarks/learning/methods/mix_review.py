"""Mix-review (He et al. 2021): pretraining text is mixed into every epoch of fine-tuning, less of it each epoch.

Covered: the mix and its decay. Differs: a step on a document is an epoch, and the decay starts anew with each document; the
pretraining text is sampled from the base model, as for every method that preserves old knowledge by data.
"""

import torch
from torch import Tensor, nn

from adapters.workspace import Batch
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step

DECAY = 0.9
"""Of the number of texts mixed in, from one step to the next; the paper tries 0.5 to 1."""


class MixReview(Method):
    """AdamW on the document and on texts drawn from what must be preserved."""

    title = "Mix-review"
    source = "He et al. 2021; an epoch is a step on one document, the pretraining data is text sampled from the base model"
    grid = {"rate": (3e-4, 1e-4, 1e-3), "steps": (10, 30), "mix": (4, 8)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model()
        self._random = torch.Generator().manual_seed(0)

    def learn(self, step: Step) -> None:
        """See `Method`."""
        ids = self.ground.base.encode(step.text)
        texts = self.knobs["mix"]

        def loss() -> Tensor:
            nonlocal texts
            batch = self._mixed(ids, round(texts))
            texts *= DECAY
            return mean_loss(self._model, batch)

        train(self._model.parameters(), loss, int(self.knobs["steps"]), self.knobs["rate"])

    def _mixed(self, ids: list[int], texts: int) -> Batch:
        """The document and so many preserved texts, every one a row like any other."""
        chosen = torch.randint(len(self.ground.preserved), (texts,), generator=self._random)
        return self.ground.batch([ids, *self.ground.preserved[chosen].tolist()])

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
