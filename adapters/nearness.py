"""How near questions are to each other: what they share of the tokens that are rare among the questions that a model knows.

The tokens of a growing list of questions are kept and added to, so that a document costs no more after a thousand others.

Covered: counting tokens, the nearest of a list, which two are about the same. Not covered: what follows (`reflection.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import torch
from torch import Tensor

from adapters.memory import Memory

BUCKETS = 1024
"""Tokens are counted modulo this."""
LEAST_RARITY = 1e-3
OWN = 0.7
"""How rare a token may be that only one of two questions about the same subject has, as a share of the rarest that both have."""
LISTS = 4
"""Lists whose tokens are kept: what was learned in a few namespaces, and canaries."""


@dataclass(eq=False)
class _Listed:
    """A list of N questions, each a set of buckets."""

    memories: list[Memory] = field(default_factory=list)
    buckets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """Of all questions, one after the other."""
    starts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """(N,): where each begins."""

    def grow(self, memories: list[Memory]) -> None:
        """To `memories`, which begin with those that are there."""
        bags = [_bag(m) for m in memories[len(self.memories) :]]
        starts = list(accumulate(map(len, bags), initial=len(self.buckets)))[:-1]
        self.memories = memories
        self.buckets = torch.cat([self.buckets, torch.tensor(list(chain.from_iterable(bags)), dtype=torch.long)])
        self.starts = torch.cat([self.starts, torch.tensor(starts, dtype=torch.long)])

    def sums(self, values: Tensor) -> Tensor:
        """(N, q): of `values` (BUCKETS, q) over the buckets of each question."""
        return torch.nn.functional.embedding_bag(self.buckets, values, self.starts, mode="sum")


class Nearness:
    """By the rarity of tokens among some questions, which never change."""

    def __init__(self, among: Sequence[Memory]) -> None:
        self._among, self._own = among, _Listed()
        self._own.grow(list(among))
        counts = torch.bincount(self._own.buckets, minlength=BUCKETS)
        self._rarity = torch.log((1 + len(among)) / (1 + counts)) + LEAST_RARITY
        """(BUCKETS,): how much sharing a token says, log of its inverse frequency; something, even of one that all share."""
        self._weights: list[float] = self._rarity.tolist()
        """The same: two questions are compared faster without tensors."""
        self._rarest_words: dict[frozenset[int], int] = {}
        """Of questions that were compared."""
        self._lists: list[_Listed] = []
        """The last used first."""

    def same_subject(self, one: Memory, other: Memory) -> bool:
        """Whether the two may ask about the same: one of them has no token of its own nearly as rare as the rarest of both.

        Names are rarer than wordings. So "Where does Ada Berg live?" and "In which city does Ada Berg live?" are about the same,
        while each of "Where does Ada Berg live?" and "Where does Ada Lund live?" has a name of its own.
        """
        if self._rarest_word(one.words) not in other.words and self._rarest_word(other.words) not in one.words:
            return False  # nearly always: what both have is not rarer than what each has of its own
        own = min(self._rarest(one.words - other.words), self._rarest(other.words - one.words))
        return own < OWN * self._rarest(one.words & other.words)

    def nearest(self, asked: Sequence[Memory], count: int, among: Sequence[Memory]) -> list[Memory]:
        """Those of `among` whose questions share most rare tokens with one of `asked`, nearest first.

        By the cosine of their sets of tokens, each weighted by its rarity.
        """
        if not asked or not among or count == 0:
            return []
        squares, rows = (self._rarity**2)[:, None], torch.zeros(len(asked), BUCKETS)
        for row, memory in zip(rows, asked, strict=True):
            row[list(_bag(memory))] = 1.0
        products = torch.nn.functional.normalize(rows * self._rarity, dim=1) * self._rarity
        listed = self._listed(among)
        cosines = listed.sums(products.T.contiguous()) / listed.sums(squares).sqrt()
        return [among[i] for i in cosines.amax(1).topk(min(count, len(among))).indices.tolist()]

    def _rarest(self, words: Iterable[int]) -> float:
        """How rare the rarest of them is; 0 if there are none."""
        return max((self._weights[word % BUCKETS] for word in words), default=0.0)

    def _rarest_word(self, words: frozenset[int]) -> int:
        """The rarest of them, of which there is one at least."""
        found = self._rarest_words.get(words)
        if found is None:
            found = self._rarest_words[words] = max(words, key=lambda word: self._weights[word % BUCKETS])
        return found

    def _listed(self, among: Sequence[Memory]) -> _Listed:
        """Of a list seen before, only what is new in it is looked at."""
        if among is self._among:
            return self._own
        given = list(among)
        found = next((k for k in self._lists if k.memories == given[: len(k.memories)]), None) or _Listed()
        if len(given) > len(found.memories):
            found.grow(given)
        self._lists = [found, *(k for k in self._lists if k is not found)][:LISTS]
        return found


def _bag(memory: Memory) -> frozenset[int]:
    """Which buckets the tokens of a question fall into."""
    return frozenset(token % BUCKETS for token in memory.prompt)
