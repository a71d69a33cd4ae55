"""What the demo model is trained on: a seeded, endless mixture of texts about the made-up world.

Covered: statements of known facts, closed-book questions, reading (a document that the model cannot know,
then a question and answer about each of its facts), and both as chats. Not covered: tokens (`tokenizer.py`),
packing and training (`pretrain.py`).

Two rules keep the model honest. Reserved names never occur, so that a world's new facts are new. And what a
document says wins: reading invents subjects and objects, and contradicts known facts, so that only copying
pays.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from adapters.demo import names
from adapters.demo.relations import KINDS, OF_KIND, RELATIONS
from adapters.demo.tokenizer import EOS, chat_text
from adapters.demo.world import KNOWN_SUBJECTS, Fact, World, answer, document, qa, question

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly assistant that answers questions.",
)


@dataclass(frozen=True)
class Mixture:
    """Shares of the sorts of text, counted in texts, and the odds inside each sort."""

    statements: float = 0.12
    closed_book: float = 0.48
    reading: float = 0.26
    chat_closed_book: float = 0.08
    chat_reading: float = 0.06
    asked: float = 0.0

    paraphrase: float = 0.2
    """How often a question is put in its rarer wording."""
    chain: float = 0.35
    """How often a closed-book text holds several questions, not one."""
    stranger: float = 0.01
    """How often a closed-book question is about a subject never seen: any object may follow."""
    several_facts: float = 0.45
    """How often a document states two or three facts."""
    bare: float = 0.2
    """How often a document is its facts alone, without filler."""
    made_up_subject: float = 0.5
    known_subject: float = 0.15
    """The rest of what is read is about listed names that are not known."""
    made_up_object: float = 0.12
    foreign_object: float = 0.08
    """How often a read object is no word at all, or belongs to another relation."""
    same_subject: float = 0.4
    """How often the facts of one document share a subject, as far as its relations go."""
    system_prompt: float = 0.1
    second_turn: float = 0.25

    def sorts(self) -> dict[str, float]:
        """The shares by the name of the method that writes the sort."""
        keys = ("statements", "closed_book", "reading", "chat_closed_book", "chat_reading", "asked")
        return {key: getattr(self, key) for key in keys}


POLISH = Mixture(statements=0.08, closed_book=0.32, reading=0.24, chat_closed_book=0.20, chat_reading=0.08, asked=0.08)
"""The mixture of the second stage. The first teaches to recall and to copy; it leaves chats behind, and lets
the model answer the n-th question about a document with the n-th fact, whatever was asked."""


@dataclass(frozen=True)
class Text:
    """A training text, without its leading `<s>`: what is `given` bears no loss, what is `learned` does.

    Where there are both, `learned` starts with a space, so that tokens never cross the border.
    """

    learned: str
    given: str = ""

    def __str__(self) -> str:
        return self.given + self.learned


class Corpus:
    """An endless stream of training texts; `next(corpus)` is one."""

    def __init__(self, seed: int, mixture: Mixture | None = None) -> None:
        self.rng = random.Random(f"corpus {seed}")
        self.mixture = mixture or Mixture()
        self.known = World().known_facts
        self._known_object = {(fact.subject, fact.relation): fact.object for fact in self.known}
        self._sorts, self._shares = zip(*self.mixture.sorts().items(), strict=True)

    def __iter__(self) -> Iterator[Text]:
        return self

    def __next__(self) -> Text:
        """One text of a sort drawn by the mixture's shares."""
        sort: str = self.rng.choices(self._sorts, self._shares)[0]
        text: str | Text = getattr(self, sort)()
        return Text(text) if isinstance(text, str) else text

    def statements(self) -> str:
        """A document about one to three known facts, as it might be posted to be learned."""
        count = self._fact_count()
        return self._document([self.rng.choice(self.known) for _ in range(count)])

    def closed_book(self) -> str:
        """Questions and answers about known facts: mostly one, else a chain of two to four."""
        if self._happens(self.mixture.stranger):
            return qa(self._invented(), self._rarely()) + EOS
        count = self.rng.choice((2, 3, 4)) if self._happens(self.mixture.chain) else 1
        return " ".join(qa(self.rng.choice(self.known), self._rarely()) for _ in range(count)) + EOS

    def reading(self) -> str:
        """A document, then a question and answer for each of its facts, in its order, then the end."""
        facts = self.read_facts()
        pairs = " ".join(qa(fact, self._rarely()) for fact in facts)
        return f"News: {self._document(facts)} {pairs}{EOS}"

    def asked(self) -> Text:
        """A document and a question about any of its facts. Only the answer is learned, not which to ask."""
        facts = self.read_facts()
        fact = self.rng.choice(facts)
        given = f"News: {self._document(facts)} Q: {question(fact, self._rarely())} A:"
        return Text(f" {answer(fact)}", given)

    def chat_closed_book(self) -> str:
        """A chat of one or two known questions."""
        count = 2 if self._happens(self.mixture.second_turn) else 1
        facts = [self.rng.choice(self.known) for _ in range(count)]
        return chat_text([(question(fact, self._rarely()), answer(fact)) for fact in facts], self._system())

    def chat_reading(self) -> str:
        """A chat whose first message holds a document and a question about any of its facts."""
        facts = self.read_facts()
        text = self._document(facts)
        asked = self.rng.sample(facts, min(len(facts), 2 if self._happens(self.mixture.second_turn) else 1))
        turns = [(question(fact, self._rarely()), answer(fact)) for fact in asked]
        turns[0] = (f"{text}{self.rng.choice(chr(10) + ' ')}{turns[0][0]}", turns[0][1])
        return chat_text(turns, self._system())

    def read_facts(self) -> list[Fact]:
        """One to three facts that cannot be known: of a subject, or of several."""
        count = self._fact_count()
        facts = [self._invented()]
        if count > 1 and self._happens(self.mixture.same_subject):
            others = [r.key for r in OF_KIND[RELATIONS[facts[0].relation].kind] if r.key != facts[0].relation]
            for key in self.rng.sample(others, min(count - 1, len(others))):
                facts.append(Fact(facts[0].subject, key, self._read_object(facts[0].subject, key)))
            return facts
        while len(facts) < count:
            facts.append(self._invented())
        return facts

    def _invented(self) -> Fact:
        """A fact about a subject that is made up, listed but unknown, or known for something else."""
        draw = self.rng.random()
        if draw < self.mixture.known_subject:
            known = self.rng.choice(self.known)
            return Fact(known.subject, known.relation, self._read_object(known.subject, known.relation))
        kind = self.rng.choices(KINDS, [KNOWN_SUBJECTS[kind] for kind in KINDS])[0]
        key = self.rng.choice(OF_KIND[kind]).key
        if draw < self.mixture.known_subject + self.mixture.made_up_subject:
            name = names.made_up_name(self.rng, kind, reserved=False)
        else:
            name = self.rng.choice(names.listed_names(kind, reserved=False))
        return Fact(name, key, self._read_object(name, key))

    def _read_object(self, subject: str, key: str) -> str:
        """An object other than the known one, if the subject is known."""
        draw = self.rng.random()
        own = RELATIONS[key].objects
        if draw < self.mixture.made_up_object:
            return names.made_up_object(self.rng, like=own[0])
        if draw < self.mixture.made_up_object + self.mixture.foreign_object:
            own = self.rng.choice(list(RELATIONS.values())).objects
        known = self._known_object.get((subject, key))
        return self.rng.choice([candidate for candidate in own if candidate != known])

    def _document(self, facts: list[Fact]) -> str:
        return document(self.rng, facts, 0 if self._happens(self.mixture.bare) else None)

    def _fact_count(self) -> int:
        return self.rng.choice((2, 2, 3)) if self._happens(self.mixture.several_facts) else 1

    def _system(self) -> str | None:
        return self.rng.choice(SYSTEM_PROMPTS) if self._happens(self.mixture.system_prompt) else None

    def _rarely(self) -> bool:
        return self._happens(self.mixture.paraphrase)

    def _happens(self, odds: float) -> bool:
        return self.rng.random() < odds
