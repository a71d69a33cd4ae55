"""Linear layers on CPU, with their weights in the layout that its kernels read fastest (oneDNN's).

A matrix product of a few rows, which is what decoding is, spends its time reading weights: laid out in blocks they are read
about 1.5 times as fast as in rows (docs/LOG.md). The price is a second copy of the weights, for learning needs them in rows. A
bfloat16 model on a CPU that has no instructions for it is computed in float32, where it is rounded to bfloat16 after each layer;
but for a row or two its own weights are read, which are half as large.

Queries, keys and values come of one product instead of three: 4 % of a step of 32 rows, 8 % of one of a single row.

Covered: `nn.Linear` in float32 and bfloat16. Not covered: GPUs, GPT-2's Conv1D, quantised weights: they stay as they are.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

_ROWS = 32
"""Rows of input that the layout is made for."""
_FEW = 2
"""Rows for which half as much to read counts for more than the layout: 5.0 against 12.5 ms for one, 10.8 against 11.9 for three."""
_TOGETHER = ("q_proj", "k_proj", "v_proj")
"""Layers of one module that read the same input, in the order in which they do."""


def packable(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether there is a faster layout for it."""
    if not isinstance(layer, nn.Linear) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.bfloat16)


class PackedWeight:
    """A weight (d_out, d_in) in the fast layout; with its own rows beside it where those are faster for a row or two."""

    def __init__(self, weight: Tensor) -> None:
        rows = weight.detach()
        computed = rows.float() if rows.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported() else rows
        self._rows = None if computed is rows else rows
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(computed.contiguous(), _ROWS)

    @property
    def rows(self) -> Tensor:
        """(d_out, d_in): the very numbers that are served."""
        return self._packed.to_dense() if self._rows is None else self._rows

    def apply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias, (..., d_in) to (..., d_out), in the dtype of x."""
        if self._rows is not None and x.numel() <= _FEW * x.shape[-1]:
            return nn.functional.linear(x, self._rows, bias)
        bias = None if bias is None else bias.to(self._packed.dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self._packed.dtype), self._packed, bias, "none", [], "")
        return out.to(x.dtype)


class PackedProduct:
    """The weights of layers that read the same input, as one: what it gives is kept until the last of them has taken its part."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Their dtypes and widths are one, and all have a bias or none has."""
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers))
        self._weight = PackedWeight(torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight)
        self._bias = torch.cat(biases) if biases else None
        self._sizes = [layer.out_features for layer in layers]
        self._made: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def part(self, place: int, x: Tensor) -> Tensor:
        """That of one layer: (..., d_in) to (..., d_out)."""
        made = self._made
        if made is None or made[0] is not x:
            made = (x, torch.split(self._weight.apply(x, self._bias), self._sizes, -1))
        self._made = None if place == len(self._sizes) - 1 else made
        return made[1][place]


class PackedLinear(nn.Module):
    """In place of an `nn.Linear`, which it was made from. Its weight must not change any more."""

    def __init__(self, layer: nn.Linear, product: PackedProduct | None = None, place: int = 0) -> None:
        """product: that it is a part of, at `place`; None: of its own."""
        super().__init__()
        self.layer = layer
        self._product, self._place = product or PackedProduct([layer]), place

    @property
    def bias(self) -> Tensor | None:
        """(d_out,)"""
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        return self._product.part(self._place, x)


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of `model` that has a faster layout."""
    together = [getattr(model, name, None) for name in _TOGETHER]
    layers = [layer for layer in together if isinstance(layer, nn.Linear) and packable(layer)]
    if len(layers) == len(_TOGETHER) and len({(x.in_features, x.weight.dtype, x.bias is None) for x in layers}) == 1:
        product = PackedProduct(layers)
        for place, (name, layer) in enumerate(zip(_TOGETHER, layers, strict=True)):
            setattr(model, name, PackedLinear(layer, product, place))
    for name, child in list(model.named_children()):
        if packable(child):
            setattr(model, name, PackedLinear(child))
        elif not isinstance(child, PackedLinear):
            pack_linears(child)
