"""UltraEdit: one gradient and one ridge regression for each document's facts.

One backward pass over a question with its answer gives inputs x and output gradients d of the target layers at the positions
that predict the answer. Both are standardised with running statistics over all edits so far, which layers of the same
shape share, as in the published code; the wanted change of the outputs is v = -rate |x^|^2 d^, and the weights follow in
closed form: W += V^T X (X^T X + ridge I)^-1.

Covered: one turn a document, as many edits in it as the document states facts. Not covered: turns of a hundred edits, as published.
"""

import torch
from torch import Tensor, nn

from adapters.capture import Capture
from adapters.targets import find_targets
from adapters.workspace import token_nll
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method
from benchmarks.learning.streams import Asked, Step

EPSILON = 1e-7
"""Keeps the division by a standard deviation finite."""


class Standardiser:
    """Running mean and deviation of vectors (Welford's, over rows that come in groups)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        """Take in (N, size)."""
        count = self._count + len(rows)
        shift = rows.mean(0) - self._mean
        self._mean = self._mean + shift * len(rows) / count
        within = (rows - rows.mean(0)).square().sum(0)
        self._squares = self._squares + within + shift.square() * self._count * len(rows) / count
        self._count = count

    def __call__(self, rows: Tensor) -> Tensor:
        """Standardised (N, size)."""
        deviation = (self._squares / max(self._count - 1, 1)).sqrt()
        return (rows - self._mean) / (deviation + EPSILON)


class UltraEdit(Method):
    """One closed-form change of the target layers for each document."""

    title = "UltraEdit"
    source = "Gu et al. 2025, told questions and answers; a turn is one document's facts rather than a hundred edits"
    grid = {"rate": (5e-4, 3e-4, 7e-4), "ridge": (1.0, 0.1, 10.0)}
    uses_oracle = True

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model().requires_grad_(False)
        self._targets = find_targets(self._model, ground.config.targets)
        shapes = {n: self._model.get_parameter(f"{n}.weight").shape for n in self._targets.names}
        kept = {shape: (Standardiser(), Standardiser()) for shape in shapes.values()}
        self._statistics = {n: kept[shape] for n, shape in shapes.items()}

    def learn(self, step: Step) -> None:
        """See `Method`: the facts that the document states, its text unread."""
        for name, (x, d) in self._terms(*self._rows(step.asked)).items():
            inputs, gradients = self._statistics[name]
            hidden, wanted = inputs(x), gradients(d)
            values = -self.knobs["rate"] * hidden.square().sum(-1, keepdim=True) * wanted
            # X (X^T X + I)^-1 = (X X^T + I)^-1 X: as many rows as the answer has tokens
            gram = x @ x.T + self.knobs["ridge"] * torch.eye(len(x))
            self._add(name, values.T @ torch.linalg.solve(gram, x))

    def _rows(self, facts: tuple[Asked, ...]) -> tuple[list[list[int]], list[int]]:
        """Question and answer of each fact, and where the answers start."""
        base = self.ground.base
        prompts = [base.encode(self.prompt(a.question)) for a in facts]
        answers = [list(base.tokenizer.encode(f" {a.answer}.", add_special_tokens=False)) for a in facts]
        return [p + a for p, a in zip(prompts, answers, strict=True)], [len(p) for p in prompts]

    def _terms(self, rows: list[list[int]], starts: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer: x and d at the positions that predict the answers, which the running statistics take in."""
        batch = self.ground.batch(rows)
        told = batch.predicted
        for marks, start in zip(told, starts, strict=True):
            marks[: start - 1] = 0
        with Capture(self._model, self._targets) as capture:
            logits = self._model(batch.ids, attention_mask=batch.mask).logits
            terms = capture.terms((token_nll(logits, batch.ids) * told).sum() / told.sum())
        chosen = nn.functional.pad(told, (0, 1)).flatten().bool()
        found = {n: (x[chosen], d[chosen]) for n, (x, d) in terms.items()}
        for name, (x, d) in found.items():
            inputs, gradients = self._statistics[name]
            inputs.update(x)
            gradients.update(d)
        return found

    def _add(self, name: str, change: Tensor) -> None:
        """Add (d_out, d_in), however the layer stores it."""
        layer = self._model.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        with torch.no_grad():
            layer.weight += change if isinstance(layer, nn.Linear) else change.T

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
