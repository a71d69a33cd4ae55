"""Keys and values of texts that were read lately, so that a prompt which begins like one of them is read from there on.

They are kept by owner, a namespace and a version: no version reads with another's, and no namespace can learn from the time
that an answer takes what another has asked. A text is found by chained hashes of its blocks of tokens, and compared.

Covered: finding, adding, forgetting the longest unused. Not covered: sharing memory between texts, locking (one thread uses it).
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

BLOCK = 16
"""Tokens: what two texts share is found in whole blocks."""

Owner = tuple[str, str]
"""Namespace, and key of a version."""
Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (H, L, D) of each layer."""


@dataclass(frozen=True)
class Prefix:
    """What need not be read again."""

    length: int
    layers: Layers
    """The first `length` columns count."""


@dataclass(eq=False)
class _Text:
    tokens: tuple[int, ...]
    layers: Layers
    size: int
    """Bytes."""
    found_by: set[tuple[Owner, int]]


class PrefixCache:
    """Texts, the longest unused first."""

    def __init__(self, limit: int) -> None:
        """limit: bytes; 0: keep nothing."""
        self._limit, self.size = limit, 0
        self._texts: OrderedDict[_Text, None] = OrderedDict()
        self._index: dict[tuple[Owner, int], _Text] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def longest(self, owner: Owner, tokens: Sequence[int]) -> Prefix | None:
        """The longest known beginning of a prompt, its last token left out: somebody must say what comes next."""
        found, shared = None, 0
        for length, key in _blocks(owner, tokens[:-1]):
            text = self._index.get(key)
            if text is None or tuple(tokens[:length]) != text.tokens[:length]:
                break
            found, shared = text, length
        if found is None:
            return None
        self._texts.move_to_end(found)
        return Prefix(shared, found.layers)

    def worth_adding(self, owner: Owner, tokens: Sequence[int]) -> bool:
        """Whether there is a block of it that is not known yet."""
        keys = [key for _, key in _blocks(owner, tokens)]
        return self._limit > 0 and bool(keys) and keys[-1] not in self._index

    def add(self, owner: Owner, tokens: Sequence[int], layers: Layers) -> None:
        """Keep a text. layers: nothing else may write to them; those of more tokens than the cache takes are not kept."""
        size = sum(t.nbytes for pair in layers for t in pair)
        if size > self._limit:
            return
        text = _Text(tuple(tokens), layers, size, set())
        self._texts[text] = None
        self.size += size
        for _, key in _blocks(owner, tokens):
            self._found_by(key, text)
        while self.size > self._limit:
            self._forget(next(iter(self._texts)))

    def _found_by(self, key: tuple[Owner, int], text: _Text) -> None:
        """`text` from now on; a text that nothing finds any more, for it begins this one, is dropped."""
        before = self._index.get(key)
        self._index[key] = text
        text.found_by.add(key)
        if before is not None:
            before.found_by.discard(key)
            if not before.found_by:
                self._forget(before)

    def _forget(self, text: _Text) -> None:
        del self._texts[text]
        self.size -= text.size
        for key in text.found_by:
            del self._index[key]


def _blocks(owner: Owner, tokens: Sequence[int]) -> Iterator[tuple[int, tuple[Owner, int]]]:
    """Lengths of all beginnings of whole blocks, and the keys that find them."""
    chained = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        chained = hash((chained, tuple(tokens[end - BLOCK : end])))
        yield end, (owner, chained)
