"""Locate and edit: write each fact into the MLPs where the model looks its subject up.

For one fact: a value z for the hidden state of the subject's last token after the highest edited layer, found by gradient
steps such that the answer gets likely, and what the model says about the bare subject stays (KL); then, from the lowest to
the highest edited layer, the least-squares change of the down projection that adds its share of what z still lacks.

Covered: MEMIT one fact at a time (earlier edits' keys join the covariance), AlphaEdit (the change acts only on the null space of
preserved keys). Not covered: batches of edits, causal tracing: the layers are a knob.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapters.targets import find_targets
from adapters.workspace import Batch, token_nll
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method
from benchmarks.learning.streams import Asked, Step

CONTEXTS = 4
"""Beside the bare prompt: openings of preserved text put before it, so that the key is not that of one prompt alone."""
OPENING = 10
"""Tokens of each."""
STEPS, RATE, ENOUGH = 25, 0.5, 0.05
"""Of the search for the value, as published: Adam steps, their rate, the loss at which it ends."""
KL, DECAY = 0.0625, 0.5
"""As published: weights of the KL term and of the size of the change."""
SPREAD = 5
"""Most layers that share an edit, as published."""


@dataclass(frozen=True)
class _Edit:
    """A fact as token rows: the prompt in each context with its answer, last the bare subject."""

    batch: Batch
    at: Tensor
    """Position of the subject's last token in each row."""
    answer: Tensor
    """(B, T-1): 1 where the next token is of the answer; nowhere in the last row."""


def key_covariance(ground: Ground, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """E[k k^T] of each layer's inputs over preserved text, float64."""
    total: dict[str, Tensor] = {}
    for start in range(0, len(ground.preserved), 64):
        ids = ground.preserved[start : start + 64]
        with torch.no_grad(), _inputs(model, names) as seen:
            model(ids, attention_mask=torch.ones_like(ids))
        for name, x in seen.items():
            keys = x.flatten(0, 1).double()
            total[name] = total.get(name, 0) + keys.T @ keys
    return {name: t / ground.preserved.numel() for name, t in total.items()}


@contextmanager
def _inputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within it, the inputs (B, T, d_in) of these layers in the last forward pass."""
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, inputs: seen.update({name: inputs[0].detach()})

    handles = [model.get_submodule(n).register_forward_pre_hook(remember(n)) for n in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Editor(Method):
    """What MEMIT and AlphaEdit share: all but the least squares."""

    uses_oracle = True

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._model = ground.model().requires_grad_(False)
        found = find_targets(self._model, ground.config.targets)
        layers = found.first_layer + len(found.names)
        # one layer at least is left above the highest edited one: the subject's tokens reach the answer by attention alone
        top = max(found.first_layer, min(int(self.knobs["depth"] * layers) - 1, layers - 2))
        self._names = list(found.names[: top + 1 - found.first_layer][-SPREAD:])
        self._layer = self._model.get_submodule(f"{found.layers_path}.{top}")
        self._covariance = key_covariance(ground, self._model, self._names)
        self._written = {n: torch.zeros_like(c) for n, c in self._covariance.items()}
        openings = ground.preserved[:CONTEXTS, 1 : 1 + OPENING].tolist()
        self._contexts = ["", *(f"{ground.base.decode(o).strip()}. " for o in openings)]

    def learn(self, step: Step) -> None:
        """See `Method`: the facts that the document states, its text unread."""
        for asked in step.asked:
            self._write(self._edit(asked))

    def _edit(self, asked: Asked) -> _Edit:
        base = self.ground.base
        answer = list(base.tokenizer.encode(f" {asked.answer}.", add_special_tokens=False))
        rows, at = [], []
        for lead, rest in [*((c + "Q: ", f"{asked.question} A:") for c in self._contexts), ("", f"{asked.subject} is a")]:
            end = rest.index(asked.subject) + len(asked.subject)
            at.append(len(base.encode(lead + rest[:end])) - 1)
            rows.append(base.encode(lead + rest) + answer)
        rows[-1] = rows[-1][: -len(answer)]
        batch = self.ground.batch(rows)
        told = torch.zeros_like(batch.predicted)
        for marks, row in zip(told[:-1], rows, strict=False):
            marks[len(row) - 1 - len(answer) : len(row) - 1] = 1
        return _Edit(batch, torch.tensor(at), told)

    def _write(self, edit: _Edit) -> None:
        wanted = self._value(edit)
        for index, name in enumerate(self._names):
            keys, state = self._read(edit)
            missing = (wanted - state).double() / (len(self._names) - index)
            self._add(name, torch.outer(missing, self._row(name, keys[name])))
        for name, key in self._read(edit)[0].items():
            self._written[name].addr_(key, key)

    @torch.no_grad()
    def _read(self, edit: _Edit) -> tuple[dict[str, Tensor], Tensor]:
        """The fact's key in each edited layer, the mean over contexts; the hidden state (H,) after the highest, without context."""
        states: list[Tensor] = []
        with _inputs(self._model, self._names) as seen, self._after_top(states.append):
            self._logits(edit)
        rows = torch.arange(len(edit.at) - 1)  # all but the bare subject
        return {n: x[rows, edit.at[:-1]].mean(0).double() for n, x in seen.items()}, states[0][0, edit.at[0]]

    def _value(self, edit: _Edit) -> Tensor:
        """The hidden state (H,) that makes the answer likely."""
        states: list[Tensor] = []
        with torch.no_grad(), self._after_top(states.append):
            before = self._said(edit, self._logits(edit))
        start = states[0][0, edit.at[0]]
        change = torch.zeros_like(start).requires_grad_()
        limit = self.knobs["clamp"] * start.norm()
        optimizer = torch.optim.Adam([change], lr=RATE)
        rows = torch.arange(len(edit.at))

        def add(hidden: Tensor) -> Tensor:
            return hidden.index_put((rows, edit.at), change.expand(len(rows), -1), accumulate=True)

        for _ in range(STEPS):
            with self._after_top(add):
                logits = self._logits(edit)
            nll = (token_nll(logits, edit.batch.ids) * edit.answer).sum() / edit.answer.sum()
            drift = nn.functional.kl_div(before, self._said(edit, logits), log_target=True, reduction="sum")
            loss = nll + KL * drift + DECAY * change.norm() / start.norm() ** 2
            if float(loss) < ENOUGH:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                change.mul_((limit / change.norm()).clamp(max=1))
        return start + change.detach()

    def _logits(self, edit: _Edit) -> Tensor:
        logits: Tensor = self._model(edit.batch.ids, attention_mask=edit.batch.mask).logits
        return logits

    @staticmethod
    def _said(edit: _Edit, logits: Tensor) -> Tensor:
        """Log-probabilities (V,) of what follows the bare subject."""
        return logits[-1, edit.at[-1]].log_softmax(-1)

    @contextmanager
    def _after_top(self, use: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Within it, `use` sees the hidden states after the highest edited layer, and may replace them."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output if isinstance(output, Tensor) else output[0]
            new = use(hidden)
            if new is None:
                return None
            return new if isinstance(output, Tensor) else (new, *output[1:])

        handle = self._layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _add(self, name: str, change: Tensor) -> None:
        """Add (d_out, d_in), however the layer stores it."""
        weight = self._model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight += (change if isinstance(self._model.get_submodule(name), nn.Linear) else change.T).to(weight.dtype)

    @abstractmethod
    def _row(self, name: str, key: Tensor) -> Tensor:
        """The row u (d_in,) for which the least-squares change is `missing` u^T."""

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model


class Memit(Editor):
    """Least squares against the covariance of preserved keys and the keys of earlier edits."""

    title = "MEMIT"
    source = (
        "Meng et al. 2023, told question, answer and subject; one fact at a time, so keys of earlier edits join the covariance; "
        "covariance and prefixes from text sampled from the base model"
    )
    grid = {"depth": (0.5, 0.25, 0.75), "weight": (100.0, 10.0, 1000.0), "clamp": (0.75,)}

    def _row(self, name: str, key: Tensor) -> Tensor:
        known = self.knobs["weight"] * self._covariance[name] + self._written[name]
        row: Tensor = torch.linalg.solve(known + torch.outer(key, key), key)
        return row


class AlphaEdit(Editor):
    """The same, where the change acts on nothing but the null space of preserved keys."""

    title = "AlphaEdit"
    source = (
        "Fang et al. 2025, told question, answer and subject; the sequential form; what counts as null and the ridge are in units "
        "of the covariance (mean eigenvalue; trace within the null space), since activations of small models are on another scale"
    )
    grid = {"depth": (0.5, 0.25, 0.75), "null": (0.1, 0.03, 1.0), "ridge": (0.1,), "clamp": (0.75,)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._null = {name: _null_space(c, self.knobs["null"]) for name, c in self._covariance.items()}

    def _row(self, name: str, key: Tensor) -> Tensor:
        null = self._null[name]
        ridge = self.knobs["ridge"] * float((null @ self._covariance[name]).trace())
        left = null @ (self._written[name] + torch.outer(key, key)) + ridge * torch.eye(len(key), dtype=key.dtype)
        row: Tensor = torch.linalg.solve(left, null @ key)
        return row


def _null_space(covariance: Tensor, share: float) -> Tensor:
    """Projector (d_in, d_in) onto the eigenvectors whose eigenvalue is below `share` of the mean."""
    values, vectors = torch.linalg.eigh(covariance)
    chosen: Tensor = vectors[:, values < share * values.mean()]
    return chosen @ chosen.T
