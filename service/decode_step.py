"""One token for every running request: a forward pass over one column, launched kernel by kernel or replayed as a CUDA graph.

A GPU finishes a small step before Python has launched it. A graph is launched at once: it is recorded for a number of rows (the
next power of two) and for the cache's present buffers, reads its input from one small tensor, and its weights from where
`VersionTable.swap` puts a version's. A step whose rows are on several versions is launched kernel by kernel.

Covered: models whose layers all attend to everything, through `scaled_dot_product_attention`; others are never recorded.
Not covered: reading prompts (`reading.py`), choosing tokens (`sampler.py`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from adapters.base_model import BaseModel
from adapters.versioned_linear import VersionTable
from service.slot_cache import SlotCache

log = structlog.get_logger()

_WARM_UP = 2
"""Steps before one is recorded: libraries set themselves up in the first."""


class DecodeStep(Protocol):
    """How a step is made."""

    def logits(self, cache: SlotCache, tokens: Sequence[int], versions: Sequence[str]) -> Tensor:
        """(B, V) after the last token of each row of `cache`, which has grown by them then."""
        ...


def decode_step(base: BaseModel, table: VersionTable, graphs: bool = True) -> DecodeStep:
    """The fastest that there is for a model where it is. graphs: False: never record."""
    launched = LaunchedStep(base, table)
    return GraphedStep(launched, base, table) if graphs and base.device.type == "cuda" and recordable(base) else launched


def recordable(base: BaseModel) -> bool:
    """Whether every layer attends to everything that the mask leaves it, and takes a mask of booleans."""
    config: Any = base.model.config
    plain = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return config._attn_implementation == "sdpa" and plain and window is None


class LaunchedStep:
    """An ordinary forward pass."""

    def __init__(self, base: BaseModel, table: VersionTable) -> None:
        self._base, self._table = base, table

    def logits(self, cache: SlotCache, tokens: Sequence[int], versions: Sequence[str]) -> Tensor:
        """See DecodeStep."""
        mask, positions = cache.before_step(self._base.device)
        ids = torch.tensor([[token] for token in tokens], device=self._base.device)
        self._table.route(versions)
        out = self._base.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache.after_step()
        logits: Tensor = out.logits[:, -1]
        return logits


class FixedStep:
    """A forward pass over some rows with fixed addresses and shapes: what a graph records, and what can be run without one."""

    def __init__(self, base: BaseModel, cache: SlotCache, rows: int) -> None:
        self._base, self._cache, self.rows = base, cache, rows
        self._input = torch.zeros(2 * rows + 1, dtype=torch.long, device=base.device)
        """Tokens, first columns, and the column to write."""
        self._columns = torch.arange(cache.columns, device=base.device)

    def feed(self, tokens: Sequence[int]) -> None:
        """The next tokens of the cache's rows. Rows beyond them see the column that is written, and nothing else."""
        spare, end = self.rows - len(tokens), self._cache.end
        self._input.copy_(torch.tensor([*tokens, *[0] * spare, *self._cache.starts, *[end] * spare, end]))

    def run(self) -> Tensor:
        """(rows, V)"""
        ids, starts, end = torch.split(self._input, [self.rows, self.rows, 1])
        mask = (self._columns >= starts[:, None]) & (self._columns <= end)
        with self._cache.fixed(end):
            out: Any = self._base.model(
                ids[:, None],
                attention_mask=mask[:, None, None],
                position_ids=(end - starts)[:, None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = out.logits[:, -1]
        return logits


class GraphedStep:
    """Fixed steps, recorded when first needed."""

    def __init__(self, launched: LaunchedStep, base: BaseModel, table: VersionTable) -> None:
        self._launched, self._base, self._table = launched, base, table
        self._graphs: dict[int, tuple[FixedStep, torch.cuda.CUDAGraph, Tensor]] = {}
        """By rows; all for one state of one cache's buffers."""
        self._of: tuple[SlotCache, int] | None = None
        self._refused = False

    @property
    def recorded(self) -> tuple[int, ...]:
        """For how many rows there are graphs now."""
        return tuple(self._graphs)

    def logits(self, cache: SlotCache, tokens: Sequence[int], versions: Sequence[str]) -> Tensor:
        """See DecodeStep."""
        if self._refused or len(set(versions)) > 1:
            return self._launched.logits(cache, tokens, versions)
        cache.reserve(1)
        if self._of != (cache, cache.moves):
            self._graphs.clear()
            self._of = (cache, cache.moves)
        self._table.swap(versions[0])
        rows = min(cache.rows, 1 << (len(tokens) - 1).bit_length())
        if rows not in self._graphs and not self._record(cache, rows, tokens):
            return self._launched.logits(cache, tokens, versions)
        step, graph, logits = self._graphs[rows]
        step.feed(tokens)
        graph.replay()
        cache.after_step()
        return logits[: len(tokens)]

    def _record(self, cache: SlotCache, rows: int, tokens: Sequence[int]) -> bool:
        """Whether there is a graph for so many rows now. What the steps before it write is written again by the step itself."""
        step, graph = FixedStep(self._base, cache, rows), torch.cuda.CUDAGraph()
        step.feed(tokens)
        try:
            for _ in range(_WARM_UP):
                step.run()
            current = torch.cuda.current_stream()  # kernels keep its priority
            stream = None if current == torch.cuda.default_stream() else current  # the default one cannot be recorded
            # another thread may learn meanwhile, and do what one that records must not
            with torch.cuda.graph(graph, pool=self._memory(), stream=stream, capture_error_mode="thread_local"):
                logits = step.run()
        except RuntimeError as error:
            log.warning("a decode step cannot be recorded as a graph, so steps are launched kernel by kernel", error=str(error))
            self._refused = True
            return False
        self._graphs[rows] = (step, graph, logits)
        return True

    def _memory(self) -> Any:
        """That of the other graphs, which never run at the same time; it goes with the last of them."""
        return next((graph.pool() for _, graph, _ in self._graphs.values()), None)
