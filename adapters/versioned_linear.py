"""Target layers that serve several versions of the weights at once, row by row.

A batch on one version is one ordinary matmul, so an adapted model decodes as fast as the base model; a batch that
mixes versions splits its rows in these few layers only. Version `BASE` is the frozen layer itself, untouched.

A step with fixed addresses, as a CUDA graph needs it, reads the weights from one place: there `swap` puts a version's.

Covered: linear layers and GPT-2's Conv1D; inputs (B, T, d) and flattened (B*T, d). Not covered: which versions stay
resident (the server decides)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters.packed_linear import PackedLinear, PackedWeight
from adapters.targets import Targets

BASE = "v0"
"""Key of the base model's own weights."""
FIXED = "fixed"
"""Key of the place for the version that `swap` puts there."""


class VersionedLinear(nn.Module):
    """One target layer: the frozen base layer, and the weights of each resident version."""

    def __init__(self, base: nn.Module, table: "VersionTable") -> None:
        super().__init__()
        self.base = base
        self.resident: dict[str, Tensor | PackedWeight] = {}
        self._table = [table]  # in a list, so that nn.Module does not take it for a child

    def forward(self, x: Tensor) -> Tensor:
        """Rows of x by the versions of the table's current batch."""
        groups = self._table[0].groups
        if len(groups) == 1:
            return self._apply_version(groups[0][0], x)
        rows = sum(len(index) for _, index in groups)
        by_row = x.reshape(rows, -1, x.shape[-1])  # some decoders flatten (B, T, d) to (B*T, d)
        parts = [self._apply_version(version, by_row[index]) for version, index in groups]
        out = torch.empty(*by_row.shape[:-1], parts[0].shape[-1], dtype=x.dtype, device=x.device)
        for (_, index), part in zip(groups, parts, strict=True):
            out[index] = part
        return out.view(*x.shape[:-1], -1)

    def _apply_version(self, version: str, x: Tensor) -> Tensor:
        weight = self.resident.get(version)
        if weight is None:
            assert version == BASE, f"version {version} is not resident"
            out: Tensor = self.base(x)
            return out
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return weight.apply(x, bias) if isinstance(weight, PackedWeight) else nn.functional.linear(x, weight, bias)

    def hold(self, version: str, weight: Tensor) -> None:
        """Keep the weight (d_out, d_in) of a version, laid out as the base layer's, so that the same kernel computes both."""
        if isinstance(self.base, PackedLinear):
            self.resident[version] = PackedWeight(weight)
        else:
            self.resident[version] = weight.T.contiguous().T if isinstance(self.base, Conv1D) else weight

    def weight(self, version: str) -> Tensor:
        """The weight (d_out, d_in) of a resident version."""
        held = self.resident[version]
        return held.rows if isinstance(held, PackedWeight) else held

    def plain(self, version: str) -> Tensor:
        """The same of any version, the base layer's too, as a tensor that may be copied from and to. There are no packed ones."""
        if version == BASE and version not in self.resident:
            weight = self.base.weight
            assert isinstance(weight, Tensor)
            return weight.detach().T if isinstance(self.base, Conv1D) else weight.detach()
        held = self.resident[version]
        assert isinstance(held, Tensor)
        return held


class VersionTable:
    """All target layers of one served model: which versions are resident, and which rows of the current batch run on which."""

    def __init__(self, model: nn.Module, targets: Targets) -> None:
        """Replace the target layers of `model` in place."""
        self.groups: list[tuple[str, Tensor]] = [(BASE, torch.zeros(0, dtype=torch.long))]
        self._layers: dict[str, VersionedLinear] = {}
        self._swapped: str | None = None
        for name in targets.names:
            parent, _, child = name.rpartition(".")
            layer = VersionedLinear(model.get_submodule(name), self)
            setattr(model.get_submodule(parent), child, layer)
            self._layers[name] = layer

    @property
    def resident(self) -> set[str]:
        """Versions that rows may name."""
        return {BASE}.union(*(layer.resident for layer in self._layers.values())) - {FIXED}

    def install(self, version: str, weights: Mapping[str, Tensor]) -> None:
        """Make a version resident. weights: layer -> (d_out, d_in)."""
        assert version not in (BASE, FIXED)
        assert weights.keys() == self._layers.keys()
        device = next(iter(weights.values())).device
        if device.type == "cuda":  # whoever decodes does so in a stream of its own, which does not wait for this one
            torch.cuda.current_stream(device).synchronize()
        for name, layer in self._layers.items():
            layer.hold(version, weights[name])

    def weights(self, version: str) -> dict[str, Tensor]:
        """Target weights (d_out, d_in) of a resident version, as they are served; not to be changed."""
        return {name: layer.weight(version) for name, layer in self._layers.items()}

    def retire(self, version: str) -> None:
        """Drop a version; no row may name it any more."""
        for layer in self._layers.values():
            layer.resident.pop(version, None)

    def route(self, versions: Sequence[str]) -> None:
        """Say which version each row of the next batches runs on."""
        rows: dict[str, list[int]] = {}
        for row, version in enumerate(versions):
            rows.setdefault(version, []).append(row)
        self.groups = [(version, torch.tensor(index)) for version, index in rows.items()]

    def swap(self, version: str) -> None:
        """Run all rows of the next batches on `version`, out of the place whose address never changes: one copy on the device."""
        layers = list(self._layers.values())
        if self._swapped is None:
            for layer in layers:
                layer.resident[FIXED] = torch.empty_like(layer.plain(BASE))  # laid out as the base layer's
        if version != self._swapped:
            torch._foreach_copy_([layer.plain(FIXED) for layer in layers], [layer.plain(version) for layer in layers])
            self._swapped = version
        self.groups = [(FIXED, torch.zeros(0, dtype=torch.long))]
