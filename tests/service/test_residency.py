"""Which versions' weights are in memory."""

import random
import threading
from collections.abc import Callable

import pytest
import torch

from adapters.base_model import BaseModel
from adapters.targets import find_targets
from adapters.versioned_linear import BASE, VersionTable
from service.residency import Residency, Weights

MakeBase = Callable[..., BaseModel]
LIMIT = 2


class Store:
    """Weights by digest, and how often each was loaded."""

    def __init__(self, base: BaseModel) -> None:
        targets = find_targets(base.model)
        self._shapes = {name: base.model.get_submodule(name).weight.shape for name in targets.names}
        self.loads: list[str] = []
        self.sizes: list[int] = []
        self.table = VersionTable(base.model, targets)
        self.residency = Residency(self.table, LIMIT, self.load, self.sizes.append)

    def load(self, digest: str) -> Weights:
        self.loads.append(digest)
        return self.weights()

    def weights(self) -> Weights:
        return {name: torch.zeros(shape) for name, shape in self._shapes.items()}

    @property
    def resident(self) -> set[str]:
        return self.table.resident - {BASE}


@pytest.fixture
def store(tiny: MakeBase) -> Store:
    return Store(tiny("llama"))


def test_the_base_model_is_always_there(store: Store) -> None:
    assert store.residency.acquire(None) == store.residency.lease(None) == BASE
    store.residency.release(BASE)
    store.residency.pin("default", None)
    assert store.loads == []


def test_a_version_is_loaded_once_and_kept(store: Store) -> None:
    for _ in range(3):
        assert store.residency.acquire("a") == "a"
        store.residency.release("a")
    assert store.loads == ["a"]
    assert store.resident == {"a"}


def test_what_is_not_in_memory_is_not_leased_without_loading_it(store: Store) -> None:
    assert store.residency.lease("a") is None
    store.residency.install("a", store.weights())
    assert store.residency.lease("a") == "a"
    assert store.loads == []


def test_the_longest_unused_goes_first(store: Store) -> None:
    for digest in ("a", "b", "a", "c"):
        store.residency.acquire(digest)
        store.residency.release(digest)
    assert store.resident == {"a", "c"}


def test_what_is_leased_stays_whatever_the_limit(store: Store) -> None:
    for digest in "abcd":
        store.residency.acquire(digest)
    assert store.resident == set("abcd")
    for digest in "abcd":
        store.residency.release(digest)
    assert len(store.resident) == LIMIT
    assert store.sizes[-1] == LIMIT


def test_a_pin_is_kept_until_it_moves(store: Store) -> None:
    store.residency.pin("default", "a")
    for digest in "bcd":
        store.residency.acquire(digest)
        store.residency.release(digest)
    assert "a" in store.resident
    store.residency.pin("default", "b")
    for digest in "cd":
        store.residency.acquire(digest)
        store.residency.release(digest)
    assert "a" not in store.resident
    assert "b" in store.resident


def test_pinning_the_same_again_changes_nothing(store: Store) -> None:
    store.residency.pin("default", "a")
    store.residency.pin("default", "a")
    store.residency.pin("default", None)
    for digest in "bc":
        store.residency.acquire(digest)
        store.residency.release(digest)
    assert "a" not in store.resident


def test_what_was_installed_stays_until_something_else_is(store: Store) -> None:
    store.residency.pin("one", "a")
    store.residency.pin("other", "b")
    store.residency.install("c", store.weights())
    assert store.resident == {"a", "b", "c"}
    store.residency.install("d", store.weights())
    assert store.resident == {"a", "b", "d"}


def test_a_version_that_cannot_be_loaded_leaves_nothing_behind(store: Store) -> None:
    def fail(_: str) -> Weights:
        raise OSError("torn")

    broken = Residency(store.table, LIMIT, fail, store.sizes.append)
    for _ in range(2):
        with pytest.raises(OSError, match="torn"):
            broken.acquire("a")
    assert broken.lease("a") is None
    store.residency.acquire("b")


def test_a_leased_version_is_resident_however_many_ask_for_others_at_once(store: Store) -> None:
    missing: list[str] = []

    def ask(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(60):
            digest = drawn.choice("abcdef")
            key = store.residency.acquire(digest)
            if key not in first_layer.resident:
                missing.append(key)
            store.residency.release(key)
            store.residency.pin(drawn.choice(["one", "other"]), drawn.choice("abcdef"))

    first_layer = next(iter(store.table._layers.values()))
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert missing == []
    for name in ("one", "other"):
        store.residency.pin(name, None)
    assert len(store.resident) <= LIMIT
    assert all(leases == 0 for leases in store.residency._leases.values())
