"""Reflection: what must not be lost while a document is learned is rehearsed with it; what was lost is learned again with the next.

Two kinds of it: earlier lessons, and anchors (what the base model knew). Before each fold some of both are asked again, and what
was lost joins that fold, so that a document costs one fold however many came before it. SAPT (Zhao et al. 2024) replays
pseudo-samples to keep its attention stable; here the model's own views are replayed with the weights that they were learned with.
Measured: the largest gains, in retention of what was known before and of what was learned (docs/LOG.md).

Covered: what has been superseded, drawing samples, rehearsing. Not covered: solving for all documents together.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, zip_longest

import torch

from adapters.anchors import Anchors
from adapters.config import ReflectionConfig
from adapters.fold import Lesson
from adapters.memory import Memory
from adapters.workspace import Workspace

LATELY = 2
"""Near so many of the last lessons most is lost."""


class Past:
    """Earlier lessons and anchors, as seen while one document is learned."""

    def __init__(
        self, memories: Sequence[Memory], anchors: Anchors, config: ReflectionConfig, turn: int, canaries: Sequence[Memory] = ()
    ) -> None:
        """turn: how many documents came before; where the rotation stands. canaries: held like anchors, before any of them."""
        self._memories, self._anchors, self._config, self._turn = memories, anchors, config, turn
        self._canaries = canaries
        self._last_asked = {m.prompt: place for place, m in enumerate(memories)}
        self._replacing: dict[int, list[int]] = {}
        for place, memory in enumerate(memories):
            for token in memory.replaced:
                self._replacing.setdefault(token, []).append(place)

    def holds(self, memory: Memory) -> bool:
        """Whether the question and answer of `memory` were learned, and are the last that was learned of this question."""
        last = self._last_asked.get(memory.prompt)
        return last is not None and self._memories[last].answer == memory.answer

    def rehearsed(self, new: Sequence[Memory], lost: Sequence[Memory] = ()) -> list[Memory]:
        """What is folded together with the lesson `new` and what was `lost`: the nearest to either, the rest in rotation.

        With what was lost as many whatever there is to choose from, and no more tokens than as many anchors have on average, so
        that costs do not grow.
        """
        lessons, anchors = self._config.recalled, 2 * self._config.anchored
        room, tokens = max(0, lessons + anchors - len(lost)), self._tokens(lessons + anchors) - _tokens(lost)
        near = [
            *self._anchors.nearest(new, anchors // 4, self._canaries),
            *self._anchors.nearest(new, lessons // 2, self._memories),
            *self._anchors.nearest(new, anchors // 2),
            *self._beside(lost, lessons // 2, self._memories),
            *self._beside(lost, anchors // 2, self._anchors.memories),
            *recall(self._memories, lessons - lessons // 2, self._turn),
        ]
        near = [m for m in self._valid(near, new) if m not in lost][:room]
        rest = recall(self._anchors.memories, room - len(near), self._turn)
        return _within([m for m in self._valid([*near, *rest], new) if m not in lost], tokens)

    def reviewed(self, new: Sequence[Memory]) -> list[Memory]:
        """What is asked again before the lesson `new`: what the last lessons may have spoiled first, the rest in rotation.

        Lessons and anchors by turns. Lessons have half the tokens that so many anchors have on average, and anchors stand in for
        lessons that are not there yet, so that costs grow neither with the number of lessons nor with their length.
        """
        room = self._tokens(2 * self._config.reviewed)
        lessons = self._again(self._memories, room // 2)
        anchors = self._again(self._anchors.memories, max(0, room - _tokens(lessons)))
        mixed = (m for pair in zip_longest(lessons, anchors) for m in pair if m is not None)
        taught = {m.prompt for m in new}
        return [m for m in self._valid(mixed, new) if m.prompt not in taught]

    def standing(self, memories: Iterable[Memory]) -> list[Memory]:
        """Those whose answers no later lesson has superseded, each once."""
        return self._valid(memories, ())

    def sampled(self, new: Sequence[Memory], count: int) -> list[Memory]:
        """Earlier lessons in rotation, whatever was rehearsed of them: what the guard asks."""
        return self._valid(recall(self._memories, count, self._turn), new)

    def _again(self, among: Sequence[Memory], tokens: int) -> list[Memory]:
        """Half the tokens for the nearest to what was learned last, what is left in rotation; one memory may exceed them."""
        near = _within(self._anchors.nearest(self._memories[-LATELY:], tokens // 2, among), tokens // 2)
        found, room = dict.fromkeys(near), tokens - _tokens(near)
        for memory in rotated(among, self._turn * (tokens // 2)):
            if room <= 0:
                break
            if memory not in found:
                found[memory] = None
                room -= len(memory.ids)
        return list(found)

    def _tokens(self, count: int) -> int:
        """Of so many anchors, on average; of lessons, if there are none."""
        length = self._anchors.length or _tokens(self._memories) / max(1, len(self._memories))
        return int(count * length)

    def _beside(self, lost: Sequence[Memory], count: int, among: Sequence[Memory]) -> list[Memory]:
        """The nearest to what was lost, without itself."""
        near = self._anchors.nearest(lost, count + len(lost), among) if count else []
        return [m for m in near if m not in lost][:count]

    def _valid(self, found: Iterable[Memory], new: Sequence[Memory]) -> list[Memory]:
        """Without repetitions and without what a later lesson, or `new`, has superseded."""
        return [m for m in dict.fromkeys(found) if not self._outdated(m) and not any(self._supersedes(n, m) for n in new)]

    def _outdated(self, memory: Memory) -> bool:
        """Whether a later lesson answers its question otherwise; every lesson is later than an anchor."""
        last = self._last_asked.get(memory.prompt)
        if last is not None and not self.holds(memory):
            return True
        later = self._replacing.get(memory.answer[0], ())
        return any(self._supersedes(self._memories[place], memory) for place in later if last is None or place > last)

    def _supersedes(self, new: Memory, old: Memory) -> bool:
        """Whether `new` gives another answer to what may be the same question in other words.

        It asks the same, or it was learned in place of an answer that starts as the old one does, and is about the same subject.
        """
        if new.prompt == old.prompt:
            return new.answer != old.answer
        return old.answer[0] in new.replaced and self._anchors.same_subject(new, old)


def recall(memories: Sequence[Memory], count: int, turn: int) -> list[Memory]:
    """Up to `count` different memories, in rotation: each comes once in `len(memories) / count` turns.

    What is lost unnoticed is found again in half the time that drawing evenly would take on average.
    """
    first = turn * count
    return [memories[(first + i) % len(memories)] for i in range(min(count, len(memories)))]


def rotated(memories: Sequence[Memory], tokens: int) -> Iterator[Memory]:
    """All of them, after so many tokens of a ring of them: who takes n tokens, then n further ones, meets each once a round."""
    starts = list(accumulate((len(m.ids) for m in memories), initial=0))
    total = starts.pop()
    first = bisect_left(starts, tokens % total) if total else 0
    return chain(islice(memories, first, None), islice(memories, first))


def _tokens(memories: Iterable[Memory]) -> int:
    """Of all of them together."""
    return sum(len(m.ids) for m in memories)


def _within(memories: Iterable[Memory], tokens: int) -> list[Memory]:
    """Of so many tokens together: each that fits after those before it."""
    kept: list[Memory] = []
    for memory in memories:
        if len(memory.ids) <= tokens:
            kept.append(memory)
            tokens -= len(memory.ids)
    return kept


def rehearse(workspace: Workspace, lesson: Lesson, recalled: Sequence[Memory], lost: Sequence[Memory] = ()) -> Lesson:
    """The lesson with further rows: `lost`, of which the answers are required again, and `recalled`, which require nothing, but
    are kept where they are right, and else learned again."""
    rows = [lesson.batch.ids[i, : int(n)].tolist() for i, n in enumerate(lesson.batch.mask.sum(-1))]
    batch = workspace.batch(rows + [list(m.ids) for m in (*lost, *recalled)])
    weights = torch.zeros(batch.ids.shape[0], batch.ids.shape[1] - 1, device=batch.ids.device)
    required = torch.zeros_like(weights, dtype=torch.bool)
    kept = torch.zeros_like(required)
    weights[: len(rows), : lesson.weights.shape[1]] = lesson.weights
    required[: len(rows), : lesson.required.shape[1]] = lesson.required
    for row, memory in enumerate((*lost, *recalled), len(rows)):
        weights[row, : len(memory.weights)] = torch.tensor(memory.weights)
        answers = required if row < len(rows) + len(lost) else kept
        answers[row, : len(memory.required)] = torch.tensor(memory.required)
    return Lesson(batch, weights, required, kept)
