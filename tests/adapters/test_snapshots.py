"""Snapshots: with them or without, torn or whole, what is rebuilt is the same, to the bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.answers import Counted, Moments
from adapters.checkpoint import KEPT, VersionStore
from adapters.delta import Delta, DeltaSum
from adapters.errors import CorruptCheckpoint
from adapters.memory import Memory, of_answer
from adapters.snapshots import Snapshot, Snapshots

LAYERS = {"low.0": (6, 9), "high.1": (4, 5)}
"""Layer -> (d_out, d_in)."""
BASE = "b" * 32
FILES = ["manifest.json", "totals.safetensors", "memories.safetensors"]
Damage = Callable[[Path], object]
DAMAGES = [
    Path.unlink,
    lambda p: p.write_bytes(b""),
    lambda p: p.write_bytes(p.read_bytes()[:-1]),
    lambda p: p.write_bytes(b"[]"),
    lambda p: p.write_bytes(bytes([*p.read_bytes()[:-3], p.read_bytes()[-3] ^ 1, *p.read_bytes()[-2:]])),
]


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in LAYERS.items()}


def lessons(seed: int) -> list[Memory]:
    """Of all shapes that there are."""
    third = 1 / 3
    return [of_answer([1, seed], [7, 8]), Memory((2, seed, 4), (third, 1.0), (False, True), (9, seed)), Memory((seed,), (), ())]


def grow(store: VersionStore, count: int, parent: str | None = None, first: int = 0) -> list[str]:
    """A chain of so many versions on top of `parent`."""
    digests: list[str] = []
    for seed in range(first, first + count):
        generator = torch.Generator().manual_seed(seed)
        delta = Delta(
            {n: (torch.randn(r, 2, generator=generator), torch.randn(c, 2, generator=generator)) for n, (r, c) in LAYERS.items()}
        )
        written = store.write(
            delta,
            lessons(seed),
            base=BASE,
            parent=digests[-1] if digests else parent,
            documents=[f"d{seed}"],
            drift=None,
            created=seed,
        )
        digests.append(written.digest)
    return digests


def save(store: VersionStore, digest: str, weights: dict[str, Tensor], *needed: str, counted: Counted | None = None) -> None:
    store.write_snapshot(digest, BASE, *store.rebuild(digest, BASE, weights), counted, needed)


def same(one: tuple[DeltaSum, list[Memory]], other: tuple[DeltaSum, list[Memory]]) -> bool:
    (total, memories), (expected, expected_memories) = one, other
    return (
        memories == expected_memories
        and total.totals.keys() == expected.totals.keys()
        and all(torch.equal(total.totals[n], expected.totals[n]) for n in total.totals)
    )


def without_versions(store: VersionStore, digests: list[str]) -> None:
    """So that nobody can read them."""
    for digest in digests:
        shutil.rmtree(store.root / digest)


def test_memories_and_totals_come_back_as_they_were(tmp_path: Path) -> None:
    snapshots, memories = Snapshots(tmp_path), [m for seed in range(3000) for m in lessons(seed)]
    totals = {n: torch.randn(shape, dtype=torch.float64) for n, shape in LAYERS.items()}
    snapshots.write("d" * 64, BASE, Snapshot(("a", "d" * 64), totals, memories))
    found = snapshots.read("d" * 64, BASE)
    assert found is not None
    assert list(found.memories) == memories
    assert all(
        type(value) is kind
        for m in found.memories[:9]
        for field, kind in ((m.ids, int), (m.weights, float), (m.required, bool))
        for value in field
    )
    assert found.chain == ("a", "d" * 64) == snapshots.chain("d" * 64, BASE)
    assert all(torch.equal(found.totals[n], totals[n]) for n in totals)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_what_is_rebuilt_from_a_snapshot_is_bit_equal_to_the_sum_of_the_chain(
    at: int, store: VersionStore, weights: dict[str, Tensor]
) -> None:
    digests = grow(store, 6)
    expected = store.rebuild(digests[-1], BASE, weights)
    save(store, digests[at], weights)
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    assert store.behind(digests[-1], BASE) == 5 - at
    assert store.lineage(digests[-1], BASE) == digests


def test_nothing_below_the_nearest_snapshot_is_read(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 6)
    expected = store.rebuild(digests[-1], BASE, weights)
    save(store, digests[3], weights)
    without_versions(store, digests[:4])
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    assert store.lineage(digests[-1], BASE) == digests
    with pytest.raises(CorruptCheckpoint):
        store.rebuild(digests[2], BASE, weights)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_snapshot_is_as_good_as_none(name: str, damage: Damage, store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 5)
    expected = store.rebuild(digests[-1], BASE, weights)
    save(store, digests[1], weights)
    save(store, digests[3], weights)
    damage(store.root / "snapshots" / digests[3] / name)
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    damage(store.root / "snapshots" / digests[1] / name)
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    save(store, digests[3], weights)
    without_versions(store, digests[:4])
    assert same(store.rebuild(digests[-1], BASE, weights), expected), "it was written anew"


def test_a_snapshot_under_another_versions_name_is_none(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 3)
    save(store, digests[0], weights)
    expected = store.rebuild(digests[-1], BASE, weights)
    shutil.copytree(store.root / "snapshots" / digests[0], store.root / "snapshots" / digests[1])
    assert same(store.rebuild(digests[-1], BASE, weights), expected)


def test_a_snapshot_of_another_base_model_is_not_used(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digest = grow(store, 2)[-1]
    save(store, digest, weights)
    with pytest.raises(CorruptCheckpoint, match="made for base model"):
        store.rebuild(digest, "other", weights)


def test_of_a_chain_the_newest_snapshots_are_kept(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 6)
    for digest in digests:
        save(store, digest, weights)
    assert store.snapshots.digests() == set(digests[-KEPT:])


def test_what_another_chain_needs_as_its_newest_is_not_removed(store: VersionStore, weights: dict[str, Tensor]) -> None:
    trunk = grow(store, 2)
    save(store, trunk[0], weights)
    mine, theirs = grow(store, 4, trunk[-1], first=10), grow(store, 2, trunk[-1], first=20)
    expected = store.rebuild(theirs[-1], BASE, weights)
    for digest in mine:
        save(store, digest, weights, theirs[-1], mine[-1])
    assert store.snapshots.digests() == {trunk[0], *mine[-KEPT:]}
    assert store.behind(theirs[-1], BASE) == 3
    save(store, theirs[-1], weights, theirs[-1], mine[-1])
    assert store.snapshots.digests() == {trunk[0], theirs[-1], *mine[-KEPT:]}
    assert same(store.rebuild(theirs[-1], BASE, weights), expected)


def test_snapshots_of_unrelated_chains_do_not_meet(store: VersionStore, weights: dict[str, Tensor]) -> None:
    mine, theirs = grow(store, 3), grow(store, 3, first=10)
    for digest in (theirs[0], *mine):
        save(store, digest, weights)
    assert store.snapshots.digests() == {theirs[0], *mine[-KEPT:]}


def test_a_snapshot_that_cannot_be_written_leaves_nothing_and_changes_nothing(
    store: VersionStore, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    digests = grow(store, 3)
    expected = store.rebuild(digests[-1], BASE, weights)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="full"):
            save(store, digests[1], weights)
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    assert list((store.root / "snapshots").iterdir()) == []


def test_what_a_crash_left_of_a_snapshot_is_not_read_and_removed(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 3)
    expected = store.rebuild(digests[-1], BASE, weights)
    save(store, digests[1], weights)
    directory = store.root / "snapshots" / digests[1]
    directory.rename(directory.with_name(".writing-local-1"))
    assert same(store.rebuild(digests[-1], BASE, weights), expected)
    assert store.clear_unfinished() == 1
    assert list((store.root / "snapshots").iterdir()) == []


def test_a_version_that_changes_nothing_has_a_snapshot_too(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digest = store.write(Delta.zero(), (), base=BASE, parent=None, documents=[], drift=None, created=0.0).digest
    save(store, digest, weights)
    total, memories = store.rebuild(digest, BASE, weights)
    assert (total.totals, memories) == ({}, [])
    assert store.behind(digest, BASE) == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_metric_has_counted_comes_back_or_nothing_does(
    damage: Damage, store: VersionStore, weights: dict[str, Tensor]
) -> None:
    digests = grow(store, 4)
    expected = store.rebuild(digests[-1], BASE, weights)
    assert store.counted(digests[-1], BASE) is None
    moments = Moments(
        {n: torch.randn(c, c) for n, (_, c) in LAYERS.items()}, {n: torch.randn(r, r) for n, (r, _) in LAYERS.items()}
    )
    save(store, digests[0], weights)
    assert store.counted(digests[-1], BASE) is None
    save(store, digests[2], weights, counted=Counted(5, moments))
    found = store.counted(digests[-1], BASE)
    assert found is not None
    assert found.lessons == 5
    assert all(torch.equal(found.moments.inputs[n], moments.inputs[n]) for n in LAYERS)
    assert all(torch.equal(found.moments.outputs[n], moments.outputs[n]) for n in LAYERS)
    damage(store.root / "snapshots" / digests[2] / "moments.safetensors")
    assert store.counted(digests[-1], BASE) is None
    without_versions(store, digests[:3])
    assert same(store.rebuild(digests[-1], BASE, weights), expected), "the rest of it is whole"


def test_no_file_of_a_snapshot_can_hold_code(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digest = grow(store, 1)[-1]
    save(store, digest, weights)
    directory = store.root / "snapshots" / digest
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert json.loads((directory / "manifest.json").read_text())["chain"] == [digest]
