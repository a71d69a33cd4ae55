"""Keys and values of all running requests in one buffer per layer, right-aligned on a common clock.

Row r holds a request's tokens in columns [start[r], end); every decode step writes column `end` of all rows at once and
moves the clock. So a step is one ordinary batched forward pass, without paging and without copies; rows move only when
requests come and go.

A step may also be fixed in its shapes (`fixed`), as a CUDA graph needs it: it covers some rows more than run, and all columns of
the buffer, and the column that it writes is read from the device.

Covered: any model whose cache layers are plain keys and values (B, H, L, D); sliding windows keep all columns and rely
on the mask. Not covered: recurrent states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's buffer, and the part of it that the current batch sees."""

    def __init__(self, slots: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate on the first token, when the shapes are known."""
        shape = (self._slots.rows, key_states.shape[1], self._slots.columns)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one column of the running rows; return all columns in use."""
        assert key_states.shape[-2] == 1
        assert self.keys is not None
        assert self.values is not None
        if self._slots.fixed_column is not None:
            rows = key_states.shape[0]
            self.keys[:rows].index_copy_(2, self._slots.fixed_column, key_states)
            self.values[:rows].index_copy_(2, self._slots.fixed_column, value_states)
            return self.keys[:rows], self.values[:rows]
        rows, low, end = self._slots.running, self._slots.low, self._slots.end
        self.keys[:rows, :, end] = key_states[:, :, 0]
        self.values[:rows, :, end] = value_states[:, :, 0]
        return self.keys[:rows, :, low : end + 1], self.values[:rows, :, low : end + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the mask covers."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use before this step."""
        return self._slots.end - self._slots.low

    def get_max_length(self) -> int:
        """No maximum: the buffer grows."""
        return -1


class SlotCache(Cache):
    """The cache of all running requests; rows [0, running) are in use."""

    def __init__(self, layers: int, rows: int, columns: int = 256) -> None:
        """columns: of the buffer, which grows by multiples of it."""
        self.rows, self.columns, self._unit = rows, columns, columns
        self.end = 0
        self.starts: list[int] = []
        self.moves = 0
        """How often the buffers were allocated anew: what holds their addresses is out of date when it changes."""
        self.fixed_column: Tensor | None = None
        self.layers: list[Any]
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    @property
    def running(self) -> int:
        """Rows in use."""
        return len(self.starts)

    @property
    def low(self) -> int:
        """First column that any row uses."""
        return min(self.starts, default=self.end)

    def before_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make room for one column. Returns the attention mask (rows, columns in use + 1) and positions (rows, 1)."""
        self.reserve(1)
        starts = torch.tensor(self.starts, device=device)
        columns = torch.arange(self.low, self.end + 1, device=device)
        return (columns[None] >= starts[:, None]).long(), (self.end - starts)[:, None]

    @contextmanager
    def fixed(self, column: Tensor) -> Iterator[None]:
        """Within it a step writes `column` ((1,) int64, on the device) and sees all columns, of as many rows as it is given.

        Its mask must hide what its rows do not use, and leave each row something to see: what it writes is read by no mask, but
        must be finite.
        """
        self.fixed_column = column
        try:
            yield
        finally:
            self.fixed_column = None

    def after_step(self) -> None:
        """The column that was written counts from now on."""
        self.end += 1

    def join(self, prefilled: Cache, row: int, length: int) -> None:
        """Add a request: the last `length` columns of `row` of a cache that its prompt was read with."""
        if length > self.end:
            self.reserve(length)
            shift = length - self.end
            for layer in self._buffers():
                layer[: self.running, :, shift : shift + self.end] = layer[: self.running, :, : self.end].clone()
            self.end += shift
            self.starts = [s + shift for s in self.starts]
        slot, first = self.running, self.end - length
        for mine, theirs in zip(self.layers, cast(Any, prefilled).layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            mine.keys[slot, :, first : self.end] = theirs.keys[row, :, -length:]
            mine.values[slot, :, first : self.end] = theirs.values[row, :, -length:]
        self.starts.append(first)

    def layers_of(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """One request's keys and values (H, L, D), by layer, where they are until a row joins, leaves or goes on."""
        columns = slice(self.starts[row], self.end)
        return [(layer.keys[row, :, columns], layer.values[row, :, columns]) for layer in self.layers]

    def leave(self, row: int) -> None:
        """Remove a request; the last row takes its place."""
        last = self.running - 1
        if row != last:
            for layer in self._buffers():
                layer[row] = layer[last]
            self.starts[row] = self.starts[last]
        self.starts.pop()
        if not self.starts:
            self.end = 0

    def _buffers(self) -> list[Tensor]:
        return [t for layer in self.layers if layer.is_initialized for t in (layer.keys, layer.values)]

    def reserve(self, more: int) -> None:
        """Make columns [end, end + more) exist: reuse what no row needs any more, else enlarge the buffer to twice what is used."""
        if self.end + more <= self.columns:
            return
        low, width = self.low, self.end - self.low
        if grows := width + more > self.columns // 2:
            self.columns = -(-2 * (width + more) // self._unit) * self._unit
            self.moves += 1
        for layer in self.layers:
            if layer.is_initialized:
                for name in ("keys", "values"):
                    old: Tensor = getattr(layer, name)
                    used = old[:, :, low : self.end]
                    new = old.new_zeros(*old.shape[:2], self.columns, old.shape[-1]) if grows else old
                    new[:, :, :width] = used if grows else used.clone()
                    setattr(layer, name, new)
        self.starts = [s - low for s in self.starts]
        self.end = width
