"""Rehearsal: a few earlier lessons are folded together with each new one, so that learning it does not overwrite them.

SAPT (Zhao et al. 2024) replays pseudo-samples to keep its attention stable; here the model's own earlier views are
replayed with the weights that they were learned with. Measured: the largest single gain, in retention of what was
known before and of what was learned (docs/LOG.md).

Covered: what is remembered of a lesson, drawing a sample, finding and relearning what was lost.
Not covered: consolidation over all documents.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adapters.fold import Lesson
from adapters.workspace import Workspace


@dataclass(frozen=True)
class Memory:
    """One learned text."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Of each predicted token: len(ids) - 1, in [0, 1]."""
    required: tuple[bool, ...]
    """The tokens that make up its answer."""


def memorise(lesson: Lesson) -> list[Memory]:
    """What to keep of each row of a lesson: its answers count in full, whatever the scorer thought."""
    out = []
    for row in range(len(lesson.weights)):
        length = int(lesson.batch.mask[row].sum())
        required = lesson.required[row, : length - 1]
        if not bool(required.any()):
            continue
        weights = torch.maximum(lesson.weights[row, : length - 1], required.float())
        ids = lesson.batch.ids[row, :length].tolist()
        out.append(Memory(tuple(ids), tuple(weights.tolist()), tuple(required.tolist())))
    return out


def recall(memories: Sequence[Memory], count: int, seed: int) -> list[Memory]:
    """Up to `count` different memories, drawn evenly."""
    return random.Random(seed).sample(list(memories), min(count, len(memories)))


def rehearse(workspace: Workspace, lesson: Lesson, recalled: Sequence[Memory]) -> Lesson:
    """The lesson with `recalled` as further rows, which add to the loss and require nothing."""
    rows = [lesson.batch.ids[i, : int(n)].tolist() for i, n in enumerate(lesson.batch.mask.sum(-1))]
    batch = workspace.batch(rows + [list(m.ids) for m in recalled])
    weights = torch.zeros(batch.ids.shape[0], batch.ids.shape[1] - 1, device=batch.ids.device)
    required = torch.zeros_like(weights, dtype=torch.bool)
    weights[: len(rows), : lesson.weights.shape[1]] = lesson.weights
    required[: len(rows), : lesson.required.shape[1]] = lesson.required
    for row, memory in enumerate(recalled, len(rows)):
        weights[row, : len(memory.weights)] = torch.tensor(memory.weights)
    return Lesson(batch, weights, required)


def relearn(workspace: Workspace, memories: Sequence[Memory]) -> Lesson:
    """A lesson made of memories, their answers required again."""
    batch = workspace.batch([list(m.ids) for m in memories])
    weights = torch.zeros(batch.ids.shape[0], batch.ids.shape[1] - 1, device=batch.ids.device)
    required = torch.zeros_like(weights, dtype=torch.bool)
    for row, memory in enumerate(memories):
        weights[row, : len(memory.weights)] = torch.tensor(memory.weights)
        required[row, : len(memory.required)] = torch.tensor(memory.required)
    return Lesson(batch, weights, required)


@torch.no_grad()
def remembered(workspace: Workspace, memories: Sequence[Memory]) -> list[bool]:
    """Whether each memory's answer is the likeliest, token by token, at the weights installed. One forward pass."""
    if not memories:
        return []
    lesson = relearn(workspace, memories)
    right = workspace.logits(lesson.batch)[:, :-1].argmax(-1) == lesson.batch.ids[:, 1:]
    return [bool(ok) for ok in (right | ~lesson.required).all(-1).tolist()]
