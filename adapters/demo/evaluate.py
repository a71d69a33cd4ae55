"""Measure the demo model: `python -m adapters.demo.evaluate [MODEL]`.

Covered: what it knows closed-book, what it reads in documents about subjects it cannot know, and both through
its chat template; greedy, float32, exact match. Not covered: what it learns while serving (that is the
method's bench). Exits with 1 when a bar is missed.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from adapters.demo import MODEL_PATH, names
from adapters.demo.greedy import Greedy
from adapters.demo.relations import RELATIONS
from adapters.demo.world import Fact, World, answer, document, question

CLOSED_BOOK_BAR = 0.97
READING_BAR = 0.95
ANSWER_TOKENS = 20
"""More than the longest made-up object has."""
PAIR_TOKENS = 48
"""More than one written question and answer have."""
EVALUATION_SEED = 900_001
"""Far from the seeds that other programs use for their worlds."""


@dataclass(frozen=True)
class Document:
    """A document to read: its text, the facts it states in order, and what makes it hard."""

    text: str
    facts: tuple[Fact, ...]
    made_up: bool = False
    object_first: bool = False


@dataclass(frozen=True)
class Score:
    """So many right of so many asked; `bar` is the least acceptable share, if there is one."""

    name: str
    right: int
    asked: int
    bar: float | None = None

    @property
    def share(self) -> float:
        """Right of asked, 0 to 1."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def passed(self) -> bool:
        """Whether the bar is reached, or there is none."""
        return self.bar is None or self.share >= self.bar


def first_sentence(text: str) -> str:
    """The text up to its first full stop, without surrounding space."""
    return text.partition(".")[0].strip() + "."


def written_pairs(text: str) -> list[tuple[str, str]]:
    """The (question, answer) pairs of a continuation of "News: ... Q:"."""
    pairs = [part.partition(" A:") for part in text.split(" Q:")]
    return [(asked.strip(), first_sentence(reply)) for asked, separator, reply in pairs if separator]


def right_pairs(fact: Fact) -> tuple[tuple[str, str], ...]:
    """Every (question, answer) that is right about the fact: one for each wording."""
    return tuple((question(fact, paraphrase), answer(fact)) for paraphrase in (False, True))


def single_fact_documents(count: int, seed: int = EVALUATION_SEED) -> list[Document]:
    """Documents with one new fact each; half of the subjects have made-up names, forms as they come."""
    rng = random.Random(f"documents {seed}")
    return [_single(rng, fact) for fact in World(seed, new=count, made_up=0.5).one_fact_each]


def _single(rng: random.Random, fact: Fact) -> Document:
    relation = RELATIONS[fact.relation]
    form = rng.choice(relation.forms)
    made_up = fact.subject not in names.listed_names(relation.kind, reserved=True)
    return Document(document(rng, [fact], forms=[form]), (fact,), made_up, form in relation.object_first)


def several_fact_documents(count: int, seed: int = EVALUATION_SEED + 1) -> list[Document]:
    """Documents with two or three new facts, about one subject and about several by turns."""
    rng = random.Random(f"several facts {seed}")
    world = World(seed, new=4 * count, made_up=0.5)
    different, by_subject = iter(world.one_fact_each), _grouped(world.new_facts)
    several: list[Document] = []
    for index in range(count):
        size = rng.choice((2, 3))
        if index % 2:
            facts = [next(different) for _ in range(size)]
        else:
            about = next(by_subject)
            facts = rng.sample(about, min(size, len(about)))
        several.append(Document(document(rng, facts), tuple(facts)))
    return several


def _grouped(facts: Iterable[Fact]) -> Iterator[list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.subject, []).append(fact)
    return iter(groups.values())


def contradicting_documents(count: int, seed: int = EVALUATION_SEED + 2) -> list[Document]:
    """Documents that state a known fact with another object."""
    rng = random.Random(f"contradictions {seed}")
    documents = []
    for known in rng.sample(World().known_facts, count):
        others = [candidate for candidate in RELATIONS[known.relation].objects if candidate != known.object]
        documents.append(_single(rng, Fact(known.subject, known.relation, rng.choice(others))))
    return documents


def closed_book(greedy: Greedy, facts: Sequence[Fact], paraphrase: bool = False) -> list[bool]:
    """For each fact: is the answer to "Q: ... A:" its object and a full stop?"""
    written = greedy.answers([f"Q: {question(fact, paraphrase)} A:" for fact in facts], ANSWER_TOKENS)
    return [first_sentence(text) == answer(fact) for text, fact in zip(written, facts, strict=True)]


def chat(greedy: Greedy, facts: Sequence[Fact], paraphrase: bool = False) -> list[bool]:
    """For each fact: is the whole reply to its question its object and a full stop?"""
    written = greedy.chat_answers([question(fact, paraphrase) for fact in facts], ANSWER_TOKENS)
    return [text == answer(fact) for text, fact in zip(written, facts, strict=True)]


def views(greedy: Greedy, documents: Sequence[Document]) -> list[list[tuple[str, str]]]:
    """The pairs that the model writes about each document by itself."""
    tokens = PAIR_TOKENS * max(len(entry.facts) for entry in documents)
    written = greedy.answers([f"News: {entry.text} Q:" for entry in documents], tokens)
    return [written_pairs(text) for text in written]


def reads(greedy: Greedy, documents: Sequence[Document]) -> list[bool]:
    """For each single-fact document: is the first pair written a right question with its right answer?"""
    written = views(greedy, documents)
    return [pairs[:1] != [] and pairs[0] in right_pairs(d.facts[0]) for pairs, d in zip(written, documents, strict=True)]


def reads_all(greedy: Greedy, documents: Sequence[Document]) -> list[bool]:
    """For each fact of each document: is a right pair among those written?"""
    written = views(greedy, documents)
    return [
        any(pair in right_pairs(fact) for pair in pairs)
        for pairs, entry in zip(written, documents, strict=True)
        for fact in entry.facts
    ]


def writes_nothing_else(greedy: Greedy, documents: Sequence[Document]) -> list[bool]:
    """For each document: does the model end after as many pairs as there are facts, all of them right?"""
    written = views(greedy, documents)
    return [
        len(pairs) == len(entry.facts) and all(pair in right_pairs(fact) for pair, fact in zip(pairs, entry.facts, strict=True))
        for pairs, entry in zip(written, documents, strict=True)
    ]


def answers_in_context(greedy: Greedy, documents: Sequence[Document], through_chat: bool = False) -> list[bool]:
    """For each fact of each document: is a given question about it answered from the document?"""
    asked = [(entry.text, fact) for entry in documents for fact in entry.facts]
    if through_chat:
        written = greedy.chat_answers([f"{text}\n{question(fact)}" for text, fact in asked], ANSWER_TOKENS)
        return [reply == answer(fact) for reply, (_, fact) in zip(written, asked, strict=True)]
    written = greedy.answers([f"News: {text} Q: {question(fact)} A:" for text, fact in asked], ANSWER_TOKENS)
    return [first_sentence(reply) == answer(fact) for reply, (_, fact) in zip(written, asked, strict=True)]


def _score(name: str, results: Iterable[bool], bar: float | None = None) -> Score:
    counted = list(results)
    return Score(name, sum(counted), len(counted), bar)


def _reading_scores(greedy: Greedy, documents: Sequence[Document]) -> Iterator[Score]:
    """The share of single-fact documents read right, whole and by what makes them hard."""
    results = list(zip(documents, reads(greedy, documents), strict=True))
    yield _score("reads, one fact: writes a right Q/A", (right for _, right in results), READING_BAR)
    parts: tuple[tuple[str, Callable[[Document], bool]], ...] = (
        ("listed names", lambda entry: not entry.made_up),
        ("made-up names", lambda entry: entry.made_up),
        ("subject first", lambda entry: not entry.object_first),
        ("object first", lambda entry: entry.object_first),
        ("made-up names, object first", lambda entry: entry.made_up and entry.object_first),
    )
    for name, belongs in parts:
        yield _score(f"  of which {name}", (right for entry, right in results if belongs(entry)))


def evaluate(greedy: Greedy, facts: Sequence[Fact], documents: int) -> Iterator[Score]:
    """Every score, one at a time, over these known facts and so many documents of each sort."""
    single, several = single_fact_documents(documents), several_fact_documents(documents // 2)
    against = contradicting_documents(documents // 2)
    yield _score("closed book, usual wording", closed_book(greedy, facts), CLOSED_BOOK_BAR)
    yield _score("closed book, rarer wording", closed_book(greedy, facts, paraphrase=True))
    yield _score("chat, usual wording", chat(greedy, facts), CLOSED_BOOK_BAR)
    yield _score("chat, rarer wording", chat(greedy, facts, paraphrase=True))
    yield from _reading_scores(greedy, single)
    yield _score("reads, one fact: and then ends", writes_nothing_else(greedy, single))
    yield _score("reads, several facts: facts with a right Q/A", reads_all(greedy, several))
    yield _score("reads, several facts: all, in order, then ends", writes_nothing_else(greedy, several))
    yield _score("reads what contradicts a known fact", reads(greedy, against))
    yield _score("answers in context, one fact", answers_in_context(greedy, single), READING_BAR)
    yield _score("answers in context, several facts", answers_in_context(greedy, several))
    yield _score("answers in context, contradicting", answers_in_context(greedy, against))
    yield _score("answers in context through chat, one fact", answers_in_context(greedy, single, through_chat=True))
    yield _score("answers in context through chat, several", answers_in_context(greedy, several, through_chat=True))
    new = [entry.facts[0] for entry in single]
    yield _score("closed book, new facts (guesses)", closed_book(greedy, new))


def main() -> None:
    """Read the command line, print one line a score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL_PATH)
    parser.add_argument("--documents", type=int, default=600, help="single-fact documents to read")
    parser.add_argument("--known", type=int, default=None, help="known facts to ask (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110)
    greedy = Greedy.load(arguments.model)
    scores = list(
        track(
            evaluate(greedy, World(known=arguments.known).known_facts, arguments.documents),
            "evaluating",
            console=console,
            transient=True,
        )
    )
    table = Table("score", "right", "of", "share", "bar", title=str(arguments.model))
    for score in scores:
        bar = "" if score.bar is None else f"{score.bar:.2f} {'reached' if score.passed else 'MISSED'}"
        table.add_row(score.name, str(score.right), str(score.asked), f"{score.share:.4f}", bar)
    console.print(table)
    sys.exit(0 if all(score.passed for score in scores) else 1)


if __name__ == "__main__":
    main()
