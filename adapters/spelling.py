"""Names in questions: put right where a view spells one otherwise than its document. A small model reads a name that it has never
seen well, and writes it badly.

Covered: which words are names, the likest name of a document. Not covered: whether the document bears out what is asked then
(`views.py`).
"""

import itertools
import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from adapters.windows import SENTENCE_END

WORD = re.compile(r"\w+")
ALIKE = 0.5
"""Least likeness of a name to what it may be meant to be: twice the letters in common, in order, over all letters."""


def is_name(word: str) -> bool:
    """Whether it has a capital or a digit."""
    return word != word.lower() or any(c.isdigit() for c in word)


def respelled(question: str, document: str) -> str:
    """The question, with each name that does not stand in the document as the likest one that does, if one is like it."""
    known = list(dict.fromkeys(_names(document)))
    words = list(WORD.finditer(question))[1:]  # what a question begins with is no name
    for named, run in reversed([(named, list(run)) for named, run in itertools.groupby(words, key=lambda word: is_name(word[0]))]):
        start, end = run[0].start(), run[-1].end()
        said = question[start:end]
        if named and said not in known:
            alike = [
                (len(WORD.findall(name)) == len(run), likeness, name)
                for name in known
                if (likeness := _likeness(said, name)) >= ALIKE
            ]
            question = question[:start] + max(alike, default=(False, 0.0, said))[2] + question[end:]
    return question


def _names(document: str) -> Iterator[str]:
    """Words with a capital or a digit in a row, within a sentence, and parts of such rows: its first word may be no name."""
    for sentence in SENTENCE_END.split(document):
        for named, run in itertools.groupby(WORD.finditer(sentence), key=lambda word: is_name(word[0])):
            words = list(run) if named else []
            for first, last in itertools.combinations_with_replacement(words, 2):
                yield sentence[first.start() : last.end()]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()
