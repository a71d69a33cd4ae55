"""Streams of documents, and what is asked after them.

Covered: one fact a document, several facts a document, documents that replace known facts; the control with shuffled
objects; facts known before; held-out text. Not covered: who learns them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.learning.worlds import Fact, FactWorld

SEVERAL = (2, 3)
"""Facts of a document that states several."""


@dataclass(frozen=True)
class Asked:
    """A question, its one right answer, and whom it is about."""

    question: str
    answer: str
    subject: str


@dataclass(frozen=True)
class Step:
    """One document of a stream."""

    text: str
    asked: tuple[Asked, ...]
    """What it teaches."""
    statements: tuple[str, ...]
    """The sentences that say so, one each."""
    object_first: tuple[bool, ...]
    """Whether the object of each comes before its subject."""


@dataclass(frozen=True)
class Stream:
    """Documents in order, and what is measured beside them."""

    steps: tuple[Step, ...]
    known: tuple[Asked, ...]
    """Facts known before, none of which a document touches: must stay."""
    kept: tuple[Asked, ...]
    """Other facts about the subjects whose facts are replaced: must stay."""
    held_out: tuple[str, ...]
    """Texts of the kind that the base model was trained on."""

    @property
    def asked(self) -> tuple[Asked, ...]:
        """All that the documents teach."""
        return tuple(a for step in self.steps for a in step.asked)


def facts(world: FactWorld, seed: int, documents: int, probes: int) -> Stream:
    """One fact in each document, each about another subject."""
    rng = random.Random(f"facts {seed}")
    steps = [_step(world, rng, [rng.choice(about)]) for about in world.fresh(seed, documents)]
    return _stream(world, rng, steps, world.known, probes)


def several(world: FactWorld, seed: int, documents: int, probes: int) -> Stream:
    """Two or three facts in each document: about one subject and about different ones, by turns."""
    rng = random.Random(f"several {seed}")
    fresh = iter(world.fresh(seed, documents * max(SEVERAL)))
    steps = []
    for index in range(documents):
        size = rng.choice(SEVERAL)
        one = next(fresh)
        about = (
            [rng.choice(a) for a in (one, *(next(fresh) for _ in range(size - 1)))]
            if index % 2
            else rng.sample(one, min(size, len(one)))
        )
        steps.append(_step(world, rng, about))
    return _stream(world, rng, steps, world.known, probes)


def moves(world: FactWorld, seed: int, documents: int, probes: int) -> Stream:
    """Each document replaces a known fact: another object for the same subject and relation."""
    rng = random.Random(f"moves {seed}")
    subjects = rng.sample(sorted({f.subject for f in world.known}), documents)
    old = [rng.choice([f for f in world.known if f.subject == s]) for s in subjects]
    new = [replace(f, object=rng.choice([o for o in world.objects(f.relation) if o != f.object])) for f in old]
    moved, gone = set(subjects), set(old)
    stream = _stream(world, rng, [_step(world, rng, [f]) for f in new], [f for f in world.known if f.subject not in moved], probes)
    kept = [_asked(world, f) for f in world.known if f.subject in moved and f not in gone]
    return replace(stream, kept=tuple(rng.sample(kept, min(len(kept), 2 * probes))))


KINDS: dict[str, Callable[[FactWorld, int, int, int], Stream]] = {"facts": facts, "several": several, "moves": moves}


def shuffled(stream: Stream, seed: int) -> tuple[Asked, ...]:
    """The questions of a stream, each with the answer to another one of the same wording: who knows only which answers
    are likely scores as well on these as on the true ones."""
    by_kind: dict[str, list[Asked]] = {}
    for asked in stream.asked:
        by_kind.setdefault(asked.question.replace(asked.subject, ""), []).append(asked)
    rng, out = random.Random(f"shuffled {seed}"), []
    for group in by_kind.values():
        answers = [a.answer for a in group]
        rng.shuffle(answers)
        out += [replace(a, answer=other) for a, other in zip(group, answers, strict=True) if a.answer != other]
    return tuple(out)


def _stream(world: FactWorld, rng: random.Random, steps: Sequence[Step], known: Sequence[Fact], probes: int) -> Stream:
    chosen = rng.sample(list(known), min(probes, len(known)))
    held_out = [_step(world, rng, [fact]).text for fact in rng.sample(list(known), min(64, len(known)))]
    return Stream(tuple(steps), tuple(_asked(world, f) for f in chosen), (), tuple(held_out))


def _step(world: FactWorld, rng: random.Random, about: Sequence[Fact]) -> Step:
    """A document that states these facts in this order, among fillers."""
    forms = [rng.choice(world.forms(f.relation)) for f in about]
    statements = [form.format(s=f.subject, o=f.object) for form, f in zip(forms, about, strict=True)]
    sentences = list(statements)
    for filler in world.fillers(rng, rng.randint(1, 3) if len(about) == 1 else rng.randint(0, 2)):
        sentences.insert(rng.randint(0, len(sentences)), filler)
    first = tuple(form.index("{o}") < form.index("{s}") for form in forms)
    return Step(" ".join(sentences), tuple(_asked(world, f) for f in about), tuple(statements), first)


def _asked(world: FactWorld, fact: Fact) -> Asked:
    return Asked(world.question(fact), fact.object, fact.subject)
