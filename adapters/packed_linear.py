"""Linear layers on CPU, with their weights in the layout that its kernels read fastest (oneDNN's).

A matrix product of a few rows, which is what decoding is, spends its time reading weights: laid out in blocks they are read
about 1.5 times as fast as in rows (docs/LOG.md). The price is a second copy of the weights, for learning needs them in rows. A
bfloat16 model on a CPU that has no instructions for it is computed in float32, where it is rounded to bfloat16 after each layer;
but for a row or two its own weights are read, which are half as large.

Covered: `nn.Linear` in float32 and bfloat16. Not covered: GPUs, GPT-2's Conv1D, quantised weights: they stay as they are.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

_ROWS = 32
"""Rows of input that the layout is made for."""
_FEW = 2
"""Rows for which half as much to read counts for more than the layout: 5.0 against 12.5 ms for one, 10.8 against 11.9 for three."""


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


class PackedLinear(nn.Module):
    """In place of an `nn.Linear`, which it was made from. Its weight must not change any more."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self._weight = PackedWeight(layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """(d_out,)"""
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        return self._weight.apply(x, self.bias)


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of `model` that has a faster layout."""
    for name, child in list(model.named_children()):
        if packable(child):
            setattr(model, name, PackedLinear(child))
        else:
            pack_linears(child)
