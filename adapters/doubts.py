"""Doubts: what a document gives no reason to learn, as far as its views show; it is learned all the same, and said.

Covered: answers that say no more than their questions, and questions that the document answers in two ways. Not covered: whether
what it says is true; a learner believes what it is told.
"""

import itertools
import re
from collections.abc import Sequence

from adapters.views import View

_WORD = re.compile(r"\w+")


def doubts(learned: Sequence[View], said: Sequence[View]) -> tuple[str, ...]:
    """A sentence for each. learned: what was folded. said: what single sentences of the document say, learned or not."""
    empty = (
        f'the answer to "{view.question}" says nothing that the question does not: "{view.answer}"'
        for view in learned
        if not _words(view.answer) or _within(view.answer, view.question)
    )
    answers: dict[str, list[str]] = {}
    for view in said:
        answers.setdefault(view.question, []).append(view.answer)
    torn = (
        f'the document answers "{question}" with "{one}" and with "{other}"'
        for question, given in answers.items()
        for one, other in itertools.islice(_different(given), 1)
    )
    return tuple(dict.fromkeys([*empty, *torn]))


def _different(answers: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of which neither is the other, nor a part of it."""
    pairs = itertools.combinations(answers, 2)
    return [(one, other) for one, other in pairs if not _within(one, other) and not _within(other, one)]


def _within(part: str, whole: str) -> bool:
    """Whether the words of one text stand in a row in the other."""
    return f" {_words(part)} " in f" {_words(whole)} "


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text)).lower()
