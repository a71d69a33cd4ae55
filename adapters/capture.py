"""Inputs x_s and output gradients d_s of the target layers, at the price of half a backward pass.

All weights are frozen; the output of the lowest target layer is made to require a gradient, so that autograd walks
down to there and no further. The gradient of a weight is then sum_s d_s x_s^T, one rank-one term per position, and
comes for free.

Covered: any model whose targets are found by `targets.py`; a stem recorded once. Not covered: several losses in one
capture."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """Stands in for a module that comes before the targets: returns what it returned."""

    def __init__(self, original: nn.Module, recorded: Any) -> None:
        super().__init__()
        self._recorded = recorded
        for attribute in ("attention_type", "layer_idx"):  # read by some decoders in their loop
            if hasattr(original, attribute):
                setattr(self, attribute, getattr(original, attribute))

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._recorded


@dataclass(frozen=True)
class _Place:
    """Where a module stands that comes before the lowest target."""

    parent: nn.Module
    name: str
    original: nn.Module
    source: nn.Module
    """Whose output it may return instead of running."""

    def put(self, module: nn.Module) -> None:
        """Let `module` stand there."""
        self.parent._modules[self.name] = module


Stem = dict[nn.Module, Any]
"""What each module returned that comes before the lowest target."""


@contextmanager
def frozen_stem(model: PreTrainedModel, targets: Targets, recorded: Stem | None = None) -> Iterator[Stem]:
    """Within it, what comes before the lowest target runs in the first forward pass only.

    recorded: what an earlier one gave, for the same tokens and the same weights below; then it does not run at all.
    Every forward pass inside must be over the same tokens.
    """
    first, target = f"{targets.layers_path}.{targets.first_layer}", targets.names[0]
    modules = _below(model, targets) + _beside(model, first, target)
    stem: Stem = {} if recorded is None else recorded
    after: set[nn.Module] = set()
    hooks = ExitStack()

    def remember(module: nn.Module, _: object, output: Any) -> None:
        if module in stem or after:
            after.add(module)
        else:
            stem[module] = output

    def freeze(*_: object) -> None:
        hooks.close()
        for module in after & stem.keys():  # runs after the target too
            del stem[module]
        for place in modules:
            if place.source in stem:
                place.put(_Replay(place.original, stem[place.source]))

    if recorded is None:
        for module in {place.source for place in modules}:
            hooks.callback(module.register_forward_hook(remember).remove)
        hooks.callback(model.get_submodule(target).register_forward_pre_hook(lambda module, _: after.add(module)).remove)
        hooks.callback(model.get_submodule(first).register_forward_hook(freeze).remove)
    else:
        freeze()
    try:
        yield stem
    finally:
        hooks.close()
        for place in modules:
            place.put(place.original)


def _below(model: nn.Module, targets: Targets) -> list[_Place]:
    """The layers below the lowest target's. All of them may return what the last of them did: nobody looks in between."""
    layers = model.get_submodule(targets.layers_path)
    found = [(str(i), layers.get_submodule(str(i))) for i in range(targets.first_layer)]
    return [_Place(layers, name, layer, found[-1][1]) for name, layer in found]


def _beside(model: nn.Module, layer: str, target: str) -> list[_Place]:
    """Modules of the lowest target's own layer beside the way down to it."""
    found, parent = [], model.get_submodule(layer)
    for step in target.removeprefix(f"{layer}.").split("."):
        found += [_Place(parent, name, child, child) for name, child in parent.named_children() if name != step]
        parent = parent.get_submodule(step)
    return found
