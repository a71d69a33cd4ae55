"""Inputs x_s and output gradients d_s of the target layers, at the price of half a backward pass.

All weights are frozen; the output of the lowest target layer is made to require a gradient, so that autograd walks
down to there and no further. The gradient of a weight is then sum_s d_s x_s^T, one rank-one term per position, and
comes for free.

Covered: any model whose targets are found by `targets.py`; a stem recorded once. Not covered: several losses in one
capture."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from adapters.targets import Targets

Terms = dict[str, tuple[Tensor, Tensor]]
"""Target layer -> (x (N, d_in), d (N, d_out)): N positions; the weight gradient is d^T x."""


class Capture:
    """While active, remembers inputs and outputs of the target layers of the last forward pass."""

    def __init__(self, model: PreTrainedModel, targets: Targets) -> None:
        self._layers = {name: model.get_submodule(name) for name in targets.names}
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Capture":
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_hook(self._remember(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _remember(self, name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad and torch.is_grad_enabled():
                output = output.detach().requires_grad_()
            self._inputs[name], self._outputs[name] = inputs[0].detach(), output
            return output

        return hook

    def terms(self, loss: Tensor) -> Terms:
        """Differentiate `loss` (scalar, from the last forward pass) and return the rank-one terms, float32."""
        names = list(self._outputs)
        gradients = torch.autograd.grad(loss, [self._outputs[name] for name in names])
        return {
            name: (self._inputs[name].flatten(0, -2).float(), gradient.flatten(0, -2).float())
            for name, gradient in zip(names, gradients, strict=True)
        }


class _Replay(nn.Module):
    """Stands in for a decoder layer below the targets: returns what was recorded above it."""

    def __init__(self, original: nn.Module, recorded: Any) -> None:
        super().__init__()
        self._recorded = recorded
        for attribute in ("attention_type", "layer_idx"):  # read by some decoders in their loop
            if hasattr(original, attribute):
                setattr(self, attribute, getattr(original, attribute))

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._recorded


@contextmanager
def frozen_stem(model: PreTrainedModel, targets: Targets) -> Iterator[None]:
    """Within it, the layers below the lowest target run in the first forward pass only.

    Every forward pass inside must be over the same tokens. Nothing happens when the lowest layer is itself a target.
    """
    layers: Any = model.get_submodule(targets.layers_path)
    below = targets.first_layer
    if below == 0:
        yield
        return
    originals = [layers[i] for i in range(below)]

    def record(_: nn.Module, __: Any, output: Any) -> None:
        frozen = output.detach() if isinstance(output, Tensor) else output
        for i, original in enumerate(originals):
            layers[i] = _Replay(original, frozen)

    with ExitStack() as stack:
        handle = layers[below - 1].register_forward_hook(record)
        stack.callback(handle.remove)
        try:
            yield
        finally:
            for i, original in enumerate(originals):
                layers[i] = original
