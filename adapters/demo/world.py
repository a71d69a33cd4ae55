"""The made-up world of the demo model: who and what exists in it, what is true, and how texts say so.

Covered: facts, the known and the new ones; statements, documents, questions and answers about them. Seeded
and pure Python. Not covered: the mixture the model is trained on (`corpus.py`), the model itself.

Known facts are the same in every world: the demo model learned them in pre-training. New facts differ by seed
and are about subjects whose names pre-training never says.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from adapters.demo import names, words
from adapters.demo.relations import KINDS, OF_KIND, RELATIONS, Relation

__all__ = ["Fact", "Relation", "World", "answer", "document", "fillers", "qa", "question", "statement"]

KNOWN_SEED = 20_261_123
KNOWN_SUBJECTS = {"person": 340, "company": 200, "product": 250, "place": 200}
"""Known subjects of each kind: 3,200 facts in all."""

_FILLERS_BESIDE_ONE = (1, 2, 3)
_FILLERS_BESIDE_SEVERAL = (0, 1, 2)


@dataclass(frozen=True)
class Fact:
    """One true sentence of the world in parts; `relation` is a key of `RELATIONS`."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class World:
    """Known facts (always the same) and new facts (by seed) about `new` fresh subjects.

    `known` limits the known facts to the first so many of a fixed, mixed order; `made_up` is the share of the
    new subjects whose names are made up of syllables.
    """

    seed: int = 0
    known: int | None = None
    new: int = 400
    made_up: float = 0.25

    def __post_init__(self) -> None:
        if self.new < 0 or (self.known is not None and self.known < 0):
            raise ValueError("a world needs counts of zero or more")
        if not 0.0 <= self.made_up <= 1.0:
            raise ValueError("made_up is a share between 0 and 1")

    @property
    def known_facts(self) -> tuple[Fact, ...]:
        """What the demo model knows, subjects and relations mixed."""
        return _known_facts()[: self.known]

    @cached_property
    def new_facts(self) -> tuple[Fact, ...]:
        """Every fact about every new subject, subject by subject."""
        rng = random.Random(f"new facts {self.seed}")
        return tuple(fact for kind, name in _fresh_subjects(rng, self.new, self.made_up) for fact in _facts_about(rng, kind, name))

    @cached_property
    def one_fact_each(self) -> tuple[Fact, ...]:
        """One new fact of each new subject: a stream of documents about different things."""
        rng = random.Random(f"one fact each {self.seed}")
        by_subject: dict[str, list[Fact]] = {}
        for fact in self.new_facts:
            by_subject.setdefault(fact.subject, []).append(fact)
        return tuple(rng.choice(facts) for facts in by_subject.values())


def _facts_about(rng: random.Random, kind: str, name: str) -> Iterator[Fact]:
    """One fact for each relation of the kind, objects drawn at random."""
    for relation in OF_KIND[kind]:
        yield Fact(name, relation.key, rng.choice(relation.objects))


@lru_cache
def _known_facts() -> tuple[Fact, ...]:
    rng = random.Random(KNOWN_SEED)
    facts = [
        fact
        for kind, count in KNOWN_SUBJECTS.items()
        for name in rng.sample(names.listed_names(kind, reserved=False), count)
        for fact in _facts_about(rng, kind, name)
    ]
    rng.shuffle(facts)
    return tuple(facts)


def _fresh_subjects(rng: random.Random, count: int, made_up: float) -> Iterator[tuple[str, str]]:
    """`count` different (kind, name) pairs, names reserved; kinds in the proportions of the known world."""
    pools = {kind: list(names.listed_names(kind, reserved=True)) for kind in KINDS}
    for pool in pools.values():
        rng.shuffle(pool)
    kinds, weights = zip(*KNOWN_SUBJECTS.items(), strict=True)
    seen: set[str] = set()
    while len(seen) < count:
        kind = rng.choices(kinds, weights)[0]
        # When a list runs dry the names after it are made up: a world can be as large as one asks.
        listed = pools[kind] and rng.random() >= made_up
        name = pools[kind].pop() if listed else names.made_up_name(rng, kind, reserved=True)
        if name not in seen:
            seen.add(name)
            yield kind, name


def statement(rng: random.Random, fact: Fact, forms: Sequence[str] | None = None) -> str:
    """One sentence that states the fact, in one of `forms` (default: any form of its relation)."""
    form = rng.choice(forms if forms is not None else RELATIONS[fact.relation].forms)
    return form.format(s=fact.subject, o=fact.object)


def fillers(rng: random.Random, count: int) -> list[str]:
    """`count` different sentences that state no fact."""
    chosen = rng.sample(words.FILLERS, count)
    return [text.format(day=rng.choice(words.DAYS), part=rng.choice(words.PARTS)) for text in chosen]


def document(
    rng: random.Random,
    facts: Sequence[Fact],
    filler_count: int | None = None,
    forms: Sequence[str] | None = None,
) -> str:
    """The facts in their order, one sentence each, among filler sentences.

    `filler_count` defaults to 1 to 3 beside one fact and 0 to 2 beside several; `forms` limits the statement
    forms (only sensible when all facts share a relation).
    """
    usual = _FILLERS_BESIDE_ONE if len(facts) == 1 else _FILLERS_BESIDE_SEVERAL
    count = rng.choice(usual) if filler_count is None else filler_count
    sentences = [statement(rng, fact, forms) for fact in facts]
    for filler in fillers(rng, count):
        sentences.insert(rng.randint(0, len(sentences)), filler)
    return " ".join(sentences)


def question(fact: Fact, paraphrase: bool = False) -> str:
    """The question whose answer is the fact's object, in the usual or in the rarer wording."""
    relation = RELATIONS[fact.relation]
    return (relation.paraphrase if paraphrase else relation.question).format(s=fact.subject)


def answer(fact: Fact) -> str:
    """The object and a full stop."""
    return f"{fact.object}."


def qa(fact: Fact, paraphrase: bool = False) -> str:
    """Question and answer in one line: "Q: Where was Anna Berg born? A: Oslo."."""
    return f"Q: {question(fact, paraphrase)} A: {answer(fact)}"
