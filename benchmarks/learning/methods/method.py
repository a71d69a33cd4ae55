"""What a method of the benchmark is: it learns documents one at a time, and answers closed-book in between.

Covered: the interface, and training loops that most rivals share. Not covered: measuring (`measure.py`), choosing knobs
(`plan.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapters.workspace import Batch, token_nll
from benchmarks.learning.ground import Ground
from benchmarks.learning.streams import Step

Knobs = Mapping[str, float]
"""What is tuned of a method: learning rates, steps, strengths."""


class Method(ABC):
    """One way of putting a stream of documents into a language model."""

    title: ClassVar[str]
    source: ClassVar[str]
    """The paper or library, and what differs from it here."""
    grid: ClassVar[Mapping[str, Sequence[float]]] = {}
    """The values of each knob that the sweep tries, one knob after another; the first ones are the defaults."""
    reads_documents: ClassVar[bool] = False
    """Whether it sees the documents when it is asked."""
    uses_oracle: ClassVar[bool] = False
    """Whether it is told what a stream's documents say (subjects, objects), which nobody would tell infold."""

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        unknown = set(knobs) - set(self.grid)
        if unknown:
            raise ValueError(f"{self.title} has no knob {sorted(unknown)}; it has {sorted(self.grid)}")
        self.ground = ground
        self.knobs: dict[str, float] = {name: values[0] for name, values in self.grid.items()} | dict(knobs)

    @abstractmethod
    def learn(self, step: Step) -> None:
        """Learn one document: `step.text`, and nothing else of the step unless `uses_oracle`."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model that answers now; called with (ids, attention_mask=...), like any causal LM."""

    def notes(self) -> dict[str, float]:
        """What else there is to say of a run, in figures."""
        return {}

    def prompt(self, question: str) -> str:
        """What is put to the model to ask a question."""
        return f"Q: {question} A:"


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T-1) NLL of each next token, nats; garbage where padded."""
    return token_nll(model(batch.ids, attention_mask=batch.mask).logits, batch.ids)


def mean_loss(model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Scalar: mean NLL over predicted tokens, weighted if weights (B, T-1) are given."""
    weights = batch.predicted if weights is None else weights * batch.predicted
    return (losses(model, batch) * weights).sum() / weights.sum().clamp(min=1e-9)


def train(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    steps: int,
    rate: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """So many steps of AdamW (no weight decay; fresh moments unless an optimizer is given), gradients clipped to norm 1."""
    parameters = list(parameters)
    optimizer = optimizer or torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
