"""Keys and values of texts that were read lately, so that a prompt which begins like one of them is read from there on.

They are kept in blocks of tokens, each found by a chained hash of all that it ends, so that texts which begin alike share their
blocks. The hash names an owner too, a namespace and a version: no version reads with another's, and no namespace can learn from
the time that an answer takes what another has asked. All blocks lie in one buffer per layer, made once: memory cannot fray.

Covered: finding, adding, giving the place of the longest unused away. Not covered: what is left of a text after its last whole
block, locking (one thread uses it).
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import structlog
import torch
from torch import Tensor

BLOCK = 16
"""Tokens."""
log = structlog.get_logger()

Owner = tuple[str, str]
"""Namespace, and key of a version."""
Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (H, L, D) of each layer."""


@dataclass(frozen=True)
class Prefix:
    """What need not be read again. To be read before anything is added to the cache that found it."""

    length: int
    """Tokens."""
    buffers: Layers
    """Keys and values (S, H, L, D) of each layer, in blocks of L tokens."""
    places: Sequence[int]
    """The blocks that it is made of."""

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """A copy of the keys and values (H, length, D) of one layer."""
        keys, values = (t[self._places].transpose(0, 1).flatten(1, 2) for t in self.buffers[number])
        return keys[:, : self.length], values[:, : self.length]

    @cached_property
    def _places(self) -> Tensor:
        return torch.tensor(self.places, device=self.buffers[0][0].device)


class PrefixCache:
    """Blocks, the longest unused first; of one text the last before the first, which without the first nobody finds."""

    def __init__(self, limit: int) -> None:
        """limit: bytes; 0: keep nothing."""
        self._limit = limit
        self._places: OrderedDict[bytes, int] = OrderedDict()
        """Of each block, by its hash."""
        self._buffers: Layers = ()
        self._free: list[int] = []
        """Places, the first of them last."""

    def __len__(self) -> int:
        return len(self._places)

    def longest(self, owner: Owner, tokens: Sequence[int]) -> Prefix | None:
        """The longest known beginning of a prompt, its last token left out: somebody must say what comes next."""
        known = []
        for key in _blocks(owner, tokens[:-1]):
            if key not in self._places:
                break
            known.append(key)
        if not known:
            return None
        self._used(known)
        return Prefix(len(known) * BLOCK, self._buffers, [self._places[key] for key in known])

    def add(self, owner: Owner, tokens: Sequence[int], layers: Layers) -> None:
        """Keep a copy of what is new of a text, or of its beginning where all of it does not fit."""
        if self._limit == 0 or len(tokens) < BLOCK:
            return
        if not self._buffers:
            self._allocate(layers)
        keys = list(_blocks(owner, tokens))[: len(self._places) + len(self._free)]
        self._used([key for key in keys if key in self._places])
        new = [number for number, key in enumerate(keys) if key not in self._places]
        if not new:
            return
        places = [self._place() for _ in new]
        try:
            into, out_of = torch.tensor([places, new], device=layers[0][0].device)
            for buffers, found in zip(self._buffers, layers, strict=True):
                for buffer, one in zip(buffers, found, strict=True):
                    blocks = one[:, : len(keys) * BLOCK].view(one.shape[0], -1, BLOCK, one.shape[-1]).transpose(0, 1)
                    buffer.index_copy_(0, into, blocks[out_of])
        except RuntimeError:  # such as no memory; what is half written has no name
            self._free += places
            raise
        self._places |= {keys[number]: place for number, place in zip(new, places, strict=True)}
        self._used(keys)

    def _allocate(self, layers: Layers) -> None:
        """Now that it is known what a token takes. On CPU the system gives memory as it is written to, on a GPU all at once."""
        places = self._limit // (BLOCK * sum(t[:, 0].nbytes for pair in layers for t in pair))

        def buffer(one: Tensor) -> Tensor:
            return one.new_empty(places, one.shape[0], BLOCK, one.shape[-1])

        try:
            self._buffers = [(buffer(keys), buffer(values)) for keys, values in layers]
        except RuntimeError as error:
            log.warning("prefixes_not_kept", megabytes=self._limit >> 20, reason=str(error), hint="lower prefix_cache_mb")
            self._limit = 0
            return
        self._free = list(reversed(range(places)))

    def _place(self) -> int:
        """One that is free, else that of the block that was not used for longest."""
        return self._free.pop() if self._free else self._places.popitem(last=False)[1]

    def _used(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            self._places.move_to_end(key)


def _blocks(owner: Owner, tokens: Sequence[int]) -> Iterator[bytes]:
    """What finds each whole block: a hash of its owner and of all tokens up to its end."""
    chained = hashlib.blake2b(repr(owner).encode(), digest_size=16).digest()
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        chained = hashlib.blake2b(chained + array("q", tokens[end - BLOCK : end]).tobytes(), digest_size=16).digest()
        yield chained
