"""Explain an answer: the learned documents whose deltas raised its tokens most.

What a version consists of is read from the version store, so a server that learns elsewhere explains as well. Factors are kept in
blocks of some links of a chain: versions whose chains begin alike share their blocks, and a chain that grew by a link costs one
delta. Where they take more than they may, the longest unused are dropped, and read again when they are asked for.

Covered: chains, factors in memory, weights, turns. Prompt and answer up to 512 tokens: of a longer text the beginning of the answer
is explained, after the end of the prompt. Not covered: the mathematics (`adapters/attribution.py`); answers of the base model,
which have no sources."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapters.attribution import Stack, margin_terms
from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from adapters.workspace import Workspace
from service.residency import Residency
from service.turns import Turns

MOST_SOURCES = 10
MOST_TOKENS = 512
"""Of prompt and answer together; a long prompt leaves half of them to the answer."""
_BLOCK = 64
"""Links of a chain that are kept together."""
_CHAINS = 16
"""Versions whose chains are remembered."""


@dataclass(frozen=True)
class Source:
    """A document that raised an answer."""

    document_id: str
    version: str
    """Which learned it; the one that answered, if that is no more."""
    score: float
    """Nats of the answer's log odds that its delta gives, to first order."""


@dataclass(frozen=True)
class _Block:
    """Some links of a chain: those that learned documents."""

    digests: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    """Of each."""
    stack: Stack

    def __add__(self, other: "_Block") -> "_Block":
        return _Block(self.digests + other.digests, self.documents + other.documents, self.stack + other.stack)


class Explainer:
    """Finds the sources of one answer at a time; callers see to that."""

    def __init__(self, workspace: Workspace, residency: Residency, store: VersionStore, turns: Turns, cache_bytes: int) -> None:
        """workspace: its own, for it installs the weights of the versions that it explains."""
        self._workspace, self._residency, self._store, self._turns = workspace, residency, store, turns
        self._cache_bytes = cache_bytes
        self._installed: str | None = None
        self._chains: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # the longest unused first, as the blocks
        self._blocks: OrderedDict[tuple[str, ...], _Block] = OrderedDict()  # by the digests of all their links

    def sources(self, digest: str | None, prompt: Sequence[int], answer: Sequence[int], names: Mapping[str, str]) -> list[Source]:
        """The documents that raised `answer` most, the best first; none for the base model and for an empty answer.

        names: digest -> name of the version, as its namespace knows it.

        Raises:
            CorruptCheckpoint: a link of the version's chain cannot be read.
        """
        if digest is None or not answer:
            return []
        answer = answer[: max(MOST_TOKENS // 2, MOST_TOKENS - len(prompt))]
        prompt = prompt[-(MOST_TOKENS - len(answer)) :]
        self._install(digest)
        with self._turns.decoding():
            terms = margin_terms(self._workspace, prompt, answer)
        totals: dict[str, float] = {}
        learned_by: dict[str, str] = {}
        links = self._chain(digest)
        for start in range(0, len(links), _BLOCK):
            block = self._block(links[start : start + _BLOCK])
            with self._turns.decoding():
                scores = block.stack.scores(terms).tolist()
            for link, documents, score in zip(block.digests, block.documents, scores, strict=True):
                for document_id in documents:
                    totals[document_id] = totals.get(document_id, 0.0) + score  # it may have been learned more than once
                    learned_by[document_id] = names.get(link, names[digest])
        best = sorted((d for d in totals if totals[d] > 0), key=lambda d: -totals[d])
        return [Source(d, learned_by[d], totals[d]) for d in best[:MOST_SOURCES]]

    def _install(self, digest: str) -> None:
        """Put the weights that are served into the workspace."""
        if self._installed == digest:
            return
        key = self._residency.acquire(digest)
        try:
            self._installed = None
            self._workspace.install(self._residency.weights(key))
            self._installed = digest
        finally:
            self._residency.release(key)

    def _chain(self, digest: str) -> tuple[str, ...]:
        """Digests of all links of a version, in order."""
        found = self._chains.pop(digest, None)
        if found is None:
            version = self._store.read(digest)
            before = self._chains.get(version.parent or "") if version.documents else None
            found = tuple(self._store.chain(digest)) if before is None else (*before, digest)
        self._chains[digest] = found
        if len(self._chains) > _CHAINS:
            self._chains.popitem(last=False)
        return found

    def _block(self, links: tuple[str, ...]) -> _Block:
        """The block of these links: what is kept of it, and the rest from disk."""
        known = next((n for n in range(len(links), 0, -1) if links[:n] in self._blocks), 0)
        block = self._blocks.pop(links[:known]) if known else self._read(())
        if known < len(links):
            block = block + self._read(links[known:])
        self._blocks[links] = block
        while sum(b.stack.nbytes for b in self._blocks.values()) > self._cache_bytes:
            self._blocks.popitem(last=False)
        return block

    def _read(self, links: tuple[str, ...]) -> _Block:
        base = self._workspace.base
        found = [(version.digest, version.documents) for version in map(self._store.read, links) if version.documents]
        deltas = [self._on_device(self._store.load(digest, base.digest)[0]) for digest, _ in found]
        return _Block(tuple(digest for digest, _ in found), tuple(documents for _, documents in found), Stack.of(deltas))

    def _on_device(self, delta: Delta) -> Delta:
        device: torch.device = self._workspace.base.device
        return Delta({name: (left.to(device), right.to(device)) for name, (left, right) in delta.factors.items()})
