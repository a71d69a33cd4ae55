"""How near questions are to each other: what they share of the tokens that are rare among the questions that a model knows.

Directions of a growing list of questions are kept and added to, so that a document costs no more after a thousand others.

Covered: counting tokens, the nearest of a list, what two share. Not covered: what is then done with them (`reflection.py`).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from adapters.memory import Memory

BUCKETS = 1024
"""Tokens are counted modulo this."""
LEAST_RARITY = 1e-3
LISTS = 4
"""Lists whose directions are kept: what was learned in a few namespaces, and canaries."""


@dataclass(eq=False)
class _Known:
    """A list, and the directions of its first members; more rows are there than are used."""

    memories: list[Memory]
    rows: Tensor
    """(more than N, BUCKETS) float32."""


class Nearness:
    """By the rarity of tokens among some questions, which never change."""

    def __init__(self, among: Sequence[Memory]) -> None:
        self._rarity = torch.log((1 + len(among)) / (1 + _bags(among).sum(0))) + LEAST_RARITY
        """(BUCKETS,): how much sharing a token says, log of its inverse frequency; something, even of one that all share."""
        self._weights: list[float] = self._rarity.tolist()
        """The same: two questions are compared faster without tensors."""
        self._among = among
        self._own: Tensor | None = None
        self._known: list[_Known] = []
        """The last used first."""

    def shared(self, one: Memory, other: Memory) -> float:
        """How much of the shorter question the two have in common, in [0, 1]: the share of its tokens, rare ones counting more."""
        mine, theirs = ({token % BUCKETS for token in m.prompt} for m in (one, other))
        least = min(sum(self._weights[b] for b in bag) for bag in (mine, theirs))
        return sum(self._weights[b] for b in mine & theirs) / max(least, 1e-9)

    def nearest(self, asked: Sequence[Memory], count: int, among: Sequence[Memory]) -> list[Memory]:
        """Those of `among` whose questions share most rare tokens with one of `asked`, nearest first: by cosine."""
        if not asked or not among or count == 0:
            return []
        shared = (self._directions(among) @ self._direct(asked).T).amax(1)
        return [among[i] for i in shared.topk(min(count, len(among))).indices.tolist()]

    def _directions(self, among: Sequence[Memory]) -> Tensor:
        """(N, BUCKETS), of norm 1: of a list seen before, only those that are new in it are computed."""
        if among is self._among:
            if self._own is None:
                self._own = self._direct(among)
            return self._own
        given = list(among)
        found = next((k for k in self._known if k.memories == given[: len(k.memories)]), _Known([], torch.zeros(0, BUCKETS)))
        done = len(found.memories)
        if len(given) > done:
            if len(given) > len(found.rows):
                found.rows = torch.cat([found.rows[:done], torch.zeros(2 * len(given) - done, BUCKETS)])
            found.rows[done : len(given)] = self._direct(given[done:])
        found.memories = given
        self._known = [found, *(k for k in self._known if k is not found)][:LISTS]
        return found.rows[: len(given)]

    def _direct(self, memories: Sequence[Memory]) -> Tensor:
        """(N, BUCKETS), of norm 1: which tokens each question holds, by rarity."""
        return torch.nn.functional.normalize(_bags(memories) * self._rarity, dim=1)


def _bags(memories: Sequence[Memory]) -> Tensor:
    """(N, BUCKETS) float32: which tokens each question holds."""
    if not memories:
        return torch.zeros(0, BUCKETS)
    prompts = [m.prompt for m in memories]
    tokens = torch.frombuffer(array("q", chain.from_iterable(prompts)), dtype=torch.int64)
    rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor([len(prompt) for prompt in prompts]))
    return torch.zeros(len(prompts) * BUCKETS).index_fill_(0, rows * BUCKETS + tokens % BUCKETS, 1.0).view(-1, BUCKETS)
