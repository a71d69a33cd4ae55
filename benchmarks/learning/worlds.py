"""Made-up worlds to draw documents from: facts that a base model knows, fresh ones, and sentences that state them.

Covered: the demo model's own world, and the prototype's (a module `world.py` in a directory of its own).
Not covered: which facts make a stream (`streams.py`).
"""

import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from adapters.demo import relations
from adapters.demo import world as demo
from adapters.demo.world import Fact

__all__ = ["DemoWorld", "Fact", "FactWorld", "PrototypeWorld", "open_world"]

LARGEST_PROTOTYPE = 2000
"""New people that the prototype's names suffice for, beside its 300 known ones."""


class FactWorld(Protocol):
    """What a stream needs of a world."""

    @property
    def known(self) -> Sequence[Fact]:
        """Facts that the base model was trained on."""

    def fresh(self, seed: int, subjects: int) -> list[list[Fact]]:
        """All facts about each of so many new subjects."""

    def objects(self, relation: str) -> Sequence[str]:
        """Everything that may stand as the object of a relation."""

    def forms(self, relation: str) -> Sequence[str]:
        """Sentences with {s} and {o} that state it."""

    def fillers(self, rng: random.Random, count: int) -> list[str]:
        """Different sentences that state no fact."""

    def question(self, fact: Fact) -> str:
        """The question whose answer is the fact's object."""


class DemoWorld:
    """The world of the model that ships."""

    def __init__(self) -> None:
        self.known: Sequence[Fact] = demo.World().known_facts

    def fresh(self, seed: int, subjects: int) -> list[list[Fact]]:
        """See `FactWorld`."""
        grouped: dict[str, list[Fact]] = {}
        for fact in demo.World(seed, new=subjects).new_facts:
            grouped.setdefault(fact.subject, []).append(fact)
        return list(grouped.values())

    def objects(self, relation: str) -> Sequence[str]:
        """See `FactWorld`."""
        return relations.RELATIONS[relation].objects

    def forms(self, relation: str) -> Sequence[str]:
        """See `FactWorld`."""
        return relations.RELATIONS[relation].forms

    def fillers(self, rng: random.Random, count: int) -> list[str]:
        """See `FactWorld`."""
        return demo.fillers(rng, count)

    def question(self, fact: Fact) -> str:
        """See `FactWorld`."""
        return demo.question(fact)


class PrototypeWorld:
    """The world behind the design's figures, whose `world.py` lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._module = _module_at(directory / "world.py")
        self._world = self._module.World(n_new=LARGEST_PROTOTYPE)
        self.known: Sequence[Fact] = [fact for subject in self._world.known for fact in self._about(subject)]

    def _about(self, subject: str) -> list[Fact]:
        return [Fact(subject, relation, value) for relation, value in self._world.facts[subject].items()]

    def fresh(self, seed: int, subjects: int) -> list[list[Fact]]:
        """See `FactWorld`; objects are drawn anew for each seed."""
        rng = random.Random(f"prototype {seed}")
        people = rng.sample(self._world.new, subjects)
        return [[Fact(p, r, rng.choice(self.objects(r))) for r in self._module.REL] for p in people]

    def objects(self, relation: str) -> Sequence[str]:
        """See `FactWorld`."""
        found: Sequence[str] = self._module.REL[relation][0]
        return found

    def forms(self, relation: str) -> Sequence[str]:
        """See `FactWorld`."""
        found: Sequence[str] = self._module.REL[relation][1]
        return found

    def fillers(self, rng: random.Random, count: int) -> list[str]:
        """See `FactWorld`."""
        return rng.sample(self._module.FILL, count)

    def question(self, fact: Fact) -> str:
        """See `FactWorld`."""
        return str(self._module.REL[fact.relation][2].format(s=fact.subject))


def open_world(name: str) -> FactWorld:
    """`demo`, or the directory of a prototype's `world.py`."""
    return DemoWorld() if name == "demo" else PrototypeWorld(Path(name))


def _module_at(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("prototype_world", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no world at {path}: give `demo` or a directory that holds world.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
