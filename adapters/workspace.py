"""The learner's own view of the model: install target weights, step them, run it over a batch.

Orientation is settled here: everywhere else a target weight is (d_out, d_in), also where the layer is GPT-2's
transposed Conv1D.

Covered: weights in and out, forward passes, losses. Not covered: writing text (`sampling.py`), gradients (`capture.py`).
The base model must not serve versions yet: `VersionTable` wraps its target layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.pytorch_utils import Conv1D

from adapters.base_model import BaseModel, learning_view, pad_rows
from adapters.delta import Delta
from adapters.targets import Targets

Pace = Callable[[], None]
"""Called between quanta of work (one forward or backward pass), so that a server can let decoding go first."""


def unpaced() -> None:
    """The pace of a learner that has the machine to itself."""


@dataclass(frozen=True)
class Batch:
    """Token rows, right-padded."""

    ids: Tensor
    """(B, T) int64."""
    mask: Tensor
    """(B, T) int64, 0 where padded."""

    @property
    def predicted(self) -> Tensor:
        """(B, T-1) float32: 1 where a position's next token is real."""
        return self.mask[:, 1:].float()


class Workspace:
    """Shares every parameter with the base model but the target layers', which it owns and may change."""

    def __init__(self, base: BaseModel, targets: Targets, pace: Pace = unpaced) -> None:
        self.base, self.targets, self.pace = base, targets, pace
        self.base_weights = {n: _oriented(base.model.get_submodule(n)).detach() for n in targets.names}
        self.model = learning_view(base.model, targets.names).requires_grad_(False)
        self._layers = {n: self.model.get_submodule(n) for n in targets.names}
        self._installed = dict(self.base_weights)
        """Target layer -> the tensor that it holds a copy of; missing once it was stepped."""

    def install(self, weights: Mapping[str, Tensor]) -> None:
        """Work from these target weights (d_out, d_in), which are copied where they are not there already.

        The tensors given must not be changed in place afterwards.
        """
        for name, layer in self._layers.items():
            if self._installed.get(name) is not weights[name]:
                _oriented(layer).copy_(weights[name])
                self._installed[name] = weights[name]

    @property
    def installed(self) -> dict[str, Tensor]:
        """The very tensors that were installed; those of layers stepped since are missing."""
        return dict(self._installed)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the target weights installed (d_out, d_in)."""
        return {name: _oriented(layer).clone() for name, layer in self._layers.items()}

    def step(self, delta: Delta, scale: float) -> None:
        """Add `scale` * `delta` to the target weights, in the model's dtype."""
        for name, (left, right) in delta.factors.items():
            self._installed.pop(name, None)
            _oriented(self._layers[name]).add_((left @ right.T).to(self.model.dtype), alpha=scale)

    def weight_parameter(self, name: str) -> Tensor:
        """The target weight as the layer itself stores it."""
        weight = self._layers[name].weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def as_parameter(self, name: str, delta: Delta) -> Tensor:
        """The change of one target weight, in the layer's own orientation and dtype."""
        left, right = delta.factors[name]
        change = (left @ right.T).to(self.model.dtype)
        return change.T if isinstance(self._layers[name], Conv1D) else change

    def batch(self, rows: list[list[int]]) -> Batch:
        """Right-padded batch of token rows."""
        return Batch(*pad_rows(rows, self.base.pad_id, self.base.device))

    def logits(self, batch: Batch, positions: Tensor | None = None) -> Tensor:
        """(B, T, V) of one forward pass; (B, P, V) where `positions` (P,) int64 says which are wanted."""
        self.pace()
        kept = 0 if positions is None else positions
        logits: Tensor = self.model(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=kept).logits
        return logits

    def next_logits(self, rows: list[list[int]]) -> Tensor:
        """(B, V): what follows each row, of one forward pass. Rows must be equally long."""
        self.pace()
        logits: Tensor = self.model(torch.tensor(rows, device=self.base.device), use_cache=False, logits_to_keep=1).logits
        return logits[:, -1]

    def outputs(self, batch: Batch) -> CausalLMOutputWithPast:
        """Of one forward pass, with the hidden states of all layers."""
        self.pace()
        found: CausalLMOutputWithPast = self.model(batch.ids, attention_mask=batch.mask, use_cache=False, output_hidden_states=True)
        return found

    def nll(self, batch: Batch) -> Tensor:
        """(B, T-1) float32: negative log-likelihood of each next token, in nats; garbage where padded."""
        return token_nll(self.logits(batch), batch.ids)


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """NLL of ids[:, 1:] under logits[:, :-1]; (B, T-1) float32, nats."""
    flat = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1)


def _oriented(layer: torch.nn.Module) -> Tensor:
    """The weight of a target layer as (d_out, d_in); a view, so that in-place changes reach the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.data.T if isinstance(layer, Conv1D) else weight.data
