"""Answers name the documents that raised them: through HTTP, and what is read and kept for it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Taught, fresh_namespace
from serving import Http, ThreadServer, events, refused
from torch import Tensor

from adapters.base_model import BaseModel
from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from adapters.memory import Memory
from adapters.targets import find_targets
from adapters.versioned_linear import VersionTable
from adapters.workspace import Workspace
from service.explain import MOST_SOURCES, MOST_TOKENS, Explainer, Source
from service.residency import Residency
from service.turns import Turns

MakeBase = Callable[..., BaseModel]
PROMPT, ANSWER = (1, 40, 41, 42), (50, 51, 52)


@dataclass(frozen=True)
class Learned:
    """A document, and the version that learned it."""

    document_id: str
    version: str
    fact: Taught


@dataclass(frozen=True)
class Lessons:
    """A namespace that has learned three documents."""

    http: Http
    namespace: str
    learned: tuple[Learned, ...]

    def generate(self, prompt: str, **body: Any) -> dict[str, Any]:
        return self.http.generate(prompt, namespace=self.namespace, **body)


@pytest.fixture(scope="module")
def taught(server: ThreadServer, facts: list[Taught]) -> Lessons:
    """Learned once; what asks it changes nothing."""
    namespace, found = fresh_namespace(), []
    for number, fact in enumerate(facts[:3]):
        job = server.http.learned(text=fact.text, id=f"doc-{number}", namespace=namespace)
        assert job["status"] == "succeeded"
        found.append(Learned(f"doc-{number}", job["version"], fact))
    return Lessons(server.http, namespace, tuple(found))


def test_the_document_that_taught_an_answer_comes_first(taught: Lessons) -> None:
    everything = {one.document_id for one in taught.learned}
    for one in taught.learned:
        found = taught.generate(one.fact.prompt, explain=True)
        assert found["text"] == one.fact.answer
        first, *others = found["sources"]
        assert (first["document_id"], first["version"]) == (one.document_id, one.version)
        scores = [source["score"] for source in (first, *others)]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0
        assert {source["document_id"] for source in others} <= everything - {one.document_id}


def test_explaining_changes_nothing_else(taught: Lessons) -> None:
    prompt = taught.learned[0].fact.prompt
    for more in ({}, {"temperature": 1.0, "seed": 3}, {"stop": "."}):
        plain, explained = taught.generate(prompt, **more), taught.generate(prompt, explain=True, **more)
        assert "sources" not in plain
        assert explained.pop("sources")
        assert explained == plain


def test_a_stream_brings_the_sources_in_its_last_event(taught: Lessons) -> None:
    body = {"prompt": taught.learned[1].fact.prompt, "namespace": taught.namespace, "explain": True, "max_new_tokens": 12}
    with taught.http.stream("POST", "/generate", json=body | {"stream": True}) as answer:
        *before, last = [json.loads(fields["data"]) for fields in events(answer.iter_lines())]
    assert not any("sources" in event for event in before)
    assert last["sources"][0]["document_id"] == "doc-1"
    assert last["sources"] == taught.http.generate(**body)["sources"]


def test_a_version_knows_nothing_of_what_was_learned_after_it(taught: Lessons) -> None:
    prompt = taught.learned[2].fact.prompt
    assert taught.generate(prompt, explain=True, version="v0")["sources"] == []
    earlier = taught.generate(prompt, explain=True, version=taught.learned[0].version)["sources"]
    assert {source["document_id"] for source in earlier} <= {"doc-0"}


def test_a_version_that_learned_nothing_has_no_sources_and_one_that_is_not_there_is_refused(http: Http, namespace: str) -> None:
    assert http.generate("Q:", namespace=namespace, explain=True)["sources"] == []
    body = {"prompt": "Q:", "namespace": namespace, "explain": True}
    refused(http.post("/generate", json=body | {"version": "v9"}), 404, "unknown_version")
    refused(http.post("/generate", json=body | {"namespace": "nowhere"}), 404, "unknown_namespace")
    refused(http.post("/generate", json=body | {"explain": "yes"}), 400)


class CountingStore(VersionStore):
    """How many deltas were read."""

    loads = 0

    def load(self, digest: str, base: str) -> tuple[Delta, tuple[Memory, ...]]:
        self.loads += 1
        return super().load(digest, base)


class Library:
    """A store on disk, and versions written into it."""

    def __init__(self, root: Path, base: BaseModel, cache_bytes: int = 2**28) -> None:
        self.base, self.store = base, CountingStore(root)
        targets = find_targets(base.model)
        workspace = Workspace(base, targets)
        self.shapes = {name: tuple(weight.shape) for name, weight in workspace.base_weights.items()}
        residency = Residency(VersionTable(base.model, targets), 2, self._load, lambda _: None)
        self._weights = workspace.base_weights
        self.explainer = Explainer(workspace, residency, self.store, Turns(), cache_bytes)
        self.names: dict[str, str] = {}
        self._clock = count()

    def _load(self, digest: str) -> dict[str, Tensor]:
        return self.store.rebuild(digest, self.base.digest, self._weights)[0].weights()

    def write(self, parent: str | None, *documents: str, delta: Delta | None = None) -> str:
        """A version on top of `parent`; its digest."""
        delta = delta or some_delta(self.shapes)
        version = self.store.write(
            delta, [], base=self.base.digest, parent=parent, documents=documents, drift=None, created=float(next(self._clock))
        )
        self.names[version.digest] = f"v{len(self.names) + 1}"
        return version.digest

    def chain(self, documents: int, parent: str | None = None) -> str:
        """So many versions, of a document each."""
        for number in range(documents):
            parent = self.write(parent, f"doc-{number}")
        assert parent is not None
        return parent

    def sources(self, digest: str | None, prompt: Sequence[int] = PROMPT, answer: Sequence[int] = ANSWER) -> list[Source]:
        return self.explainer.sources(digest, prompt, answer, self.names)


def some_delta(shapes: dict[str, tuple[int, ...]], scale: float = 1e-3) -> Delta:
    return Delta({name: (scale * torch.randn(out, 2), torch.randn(inner, 2)) for name, (out, inner) in shapes.items()})


def opposite(delta: Delta) -> Delta:
    return Delta({name: (-left, right) for name, (left, right) in delta.factors.items()})


@pytest.fixture
def make_library(tiny: MakeBase, tmp_path: Path) -> Callable[..., Library]:
    def build(cache_bytes: int = 2**28) -> Library:
        torch.manual_seed(0)
        return Library(tmp_path / "versions", tiny("llama", dtype=torch.float32), cache_bytes)

    return build


@pytest.fixture
def library(make_library: Callable[..., Library]) -> Library:
    return make_library()


def test_only_the_best_sources_are_named_and_only_those_that_raised_the_answer(library: Library) -> None:
    found = library.sources(library.chain(40))
    assert len(found) == MOST_SOURCES
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert min(s.score for s in found) > 0
    assert all(s.version == f"v{int(s.document_id.removeprefix('doc-')) + 1}" for s in found)


def test_a_chain_that_grew_costs_one_delta_and_one_that_is_known_none(library: Library) -> None:
    digest = library.chain(5)
    library.sources(digest)
    before = library.store.loads
    library.sources(digest, answer=(60,))
    assert library.store.loads == before
    library.sources(library.write(digest, "new"))
    grown = library.store.loads - before
    assert grown == 1 + 6  # the delta, and the weights, which a server has in memory


@pytest.mark.parametrize("length", [3, 64, 65, 130])
def test_what_is_kept_is_bounded_and_makes_no_difference(
    length: int, make_library: Callable[..., Library], library: Library
) -> None:
    """Nothing kept, or everything: the same sources, at any length of the chain."""
    digest = library.chain(length)
    nothing = make_library(cache_bytes=0)
    nothing.names = library.names
    for _ in range(2):
        assert [s.document_id for s in nothing.sources(digest)] == [s.document_id for s in library.sources(digest)]
    assert not nothing.explainer._blocks


def test_versions_that_share_a_history_share_what_is_kept(library: Library) -> None:
    trunk = library.chain(64)
    branches = [library.write(trunk, f"branch-{n}") for n in range(2)]
    library.sources(branches[0])
    before = library.store.loads
    library.sources(branches[1])
    assert library.store.loads - before == 1 + 65


def test_links_without_documents_are_no_sources(library: Library) -> None:
    digest = library.write(library.write(library.chain(2)), "last")
    named = {s.document_id for s in library.sources(digest)}
    assert named <= {"doc-0", "doc-1", "last"}


def test_what_was_learned_and_taken_back_is_no_source(library: Library) -> None:
    delta = some_delta(library.shapes)
    learned = library.write(library.chain(1), "gone", delta=delta)
    undone = library.write(learned, "gone", delta=opposite(delta))
    scores = {s.document_id: s.score for s in library.sources(undone)}
    assert scores.get("gone", 0.0) == pytest.approx(0, abs=1e-4)


def test_the_base_model_and_an_empty_answer_have_no_sources(library: Library) -> None:
    assert library.sources(None) == []
    assert library.sources(library.chain(2), answer=()) == []


@pytest.mark.parametrize(("prompt", "answer"), [(400, 400), (5, 600), (600, 5)])
def test_long_texts_are_explained_in_part(prompt: int, answer: int, library: Library) -> None:
    """No more than fits: here the whole context of the model."""
    assert library.base.context == MOST_TOKENS
    long_prompt, long_answer = [30 + n % 50 for n in range(prompt)], [30 + n % 7 for n in range(answer)]
    found: Any = library.sources(library.chain(12), long_prompt, long_answer)
    assert found
