"""What is remembered of a lesson, so that it can be asked and learned again.

Covered: making memories of a lesson and a lesson of memories, asking them. Not covered: which ones, and when (`reflection.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from adapters.base_model import BaseModel
from adapters.errors import InvalidCanary
from adapters.fold import Lesson
from adapters.workspace import Workspace

ASKED_TOGETHER = 64
"""Of similar length: what is asked is not to be half padding."""


@dataclass(frozen=True)
class Memory:
    """One text, most often a question, whose answer counts."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Of each predicted token: len(ids) - 1, in [0, 1]."""
    required: tuple[bool, ...]
    """The tokens that make up its answer."""
    replaced: tuple[int, ...] = ()
    """The first token of the answer that was surely given before this one was learned, if it was another."""

    @cached_property
    def prompt(self) -> tuple[int, ...]:
        """What comes before the answer."""
        return self.ids[: self.required.index(True) + 1]

    @cached_property
    def answer(self) -> tuple[int, ...]:
        """What comes after the prompt."""
        return self.ids[self.required.index(True) + 1 :]

    @cached_property
    def words(self) -> frozenset[int]:
        """The different tokens of its prompt."""
        return frozenset(self.prompt)


def of_answer(prompt: Sequence[int], answer: Sequence[int], replaced: Sequence[int] = ()) -> Memory:
    """The memory of an answer, all of which counts."""
    required = [False] * (len(prompt) - 1) + [True] * len(answer)
    return Memory((*prompt, *answer), tuple(map(float, required)), tuple(required), tuple(replaced))


def of_text(base: BaseModel, prompt: str, answer: str) -> Memory:
    """The memory of a question and its answer as an operator writes them; both get one space between them, if they have none.

    Raises:
        InvalidCanary: there is no answer, or both together exceed the model's context.
    """
    start = base.encode(base.inert(prompt))
    text = base.inert(answer if answer[:1].isspace() or prompt[-1:].isspace() else f" {answer}")
    rest = list(base.tokenizer.encode(text, add_special_tokens=False))
    if not answer.strip() or not rest or not start:
        raise InvalidCanary("a canary needs a prompt and an answer")
    if len(start) + len(rest) > base.context:
        raise InvalidCanary(f"the canary has {len(start) + len(rest)} tokens; the model's context is {base.context}")
    return of_answer(start, rest)


def memorise(lesson: Lesson, given: Sequence[int | None]) -> list[Memory]:
    """What to keep of each row of a lesson: its answers count in full, whatever the scorer thought.

    given: for each row the token with which its question was surely answered before it was learned, if it was.
    """
    out = []
    for row, first in enumerate(given):
        length = int(lesson.batch.mask[row].sum())
        required = lesson.required[row, : length - 1]
        if not bool(required.any()):
            continue
        weights = torch.maximum(lesson.weights[row, : length - 1], required.float())
        ids = lesson.batch.ids[row, :length].tolist()
        start = ids[int(required.int().argmax()) + 1]
        replaced = () if first is None or first == start else (first,)
        out.append(Memory(tuple(ids), tuple(weights.tolist()), tuple(required.tolist()), replaced))
    return out


def relearn(workspace: Workspace, memories: Sequence[Memory]) -> Lesson:
    """A lesson made of memories, their answers required."""
    batch = workspace.batch([list(m.ids) for m in memories])
    weights = torch.zeros(batch.ids.shape[0], batch.ids.shape[1] - 1, device=batch.ids.device)
    required = torch.zeros_like(weights, dtype=torch.bool)
    for row, memory in enumerate(memories):
        weights[row, : len(memory.weights)] = torch.tensor(memory.weights)
        required[row, : len(memory.required)] = torch.tensor(memory.required)
    return Lesson(batch, weights, required)


@torch.no_grad()
def remembered(workspace: Workspace, memories: Sequence[Memory]) -> list[bool]:
    """Whether each memory's answer is the likeliest, token by token, at the weights installed. One forward pass for every 64."""
    order = sorted(range(len(memories)), key=lambda i: len(memories[i].ids))
    answers = [False] * len(memories)
    for start in range(0, len(order), ASKED_TOGETHER):
        asked = order[start : start + ASKED_TOGETHER]
        lesson = relearn(workspace, [memories[i] for i in asked])
        answers_at = lesson.required.any(0).nonzero()[:, 0]  # a large vocabulary costs much at every token
        right = workspace.logits(lesson.batch, answers_at).argmax(-1) == lesson.batch.ids[:, answers_at + 1]
        for i, ok in zip(asked, (right | ~lesson.required[:, answers_at]).all(-1).tolist(), strict=True):
            answers[i] = bool(ok)
    return answers
