"""Versions on disk: what was written is what is read, or an error."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.checkpoint import Version, VersionStore
from adapters.delta import Delta, DeltaSum
from adapters.drift import Drift
from adapters.errors import CorruptCheckpoint, InvalidConfig
from adapters.memory import Memory

LAYERS = {"low.0": (6, 9), "high.1": (4, 5)}
"""Layer -> (d_out, d_in)."""
BASE = "b" * 32
DRIFT = Drift(0.0125, 1.0, 0.875)
MEMORIES = (Memory((1, 5, 7), (0.25, 1.0), (False, True)), Memory((2,), (), ()))
Damage = Callable[[Path], None]


def draw(seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(
        {
            name: (torch.randn(rows, 2, generator=generator), torch.randn(columns, 2, generator=generator))
            for name, (rows, columns) in LAYERS.items()
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "data" / "versions")


def write(store: VersionStore, seed: int = 0, parent: str | None = None, delta: Delta | None = None) -> Version:
    return store.write(
        delta or draw(seed), MEMORIES, base=BASE, parent=parent, documents=[f"d{seed}"], drift=DRIFT, created=12.5 + seed
    )


def same(one: Delta, other: Delta) -> bool:
    return one.factors.keys() == other.factors.keys() and all(
        torch.equal(a, b) for name in one.factors for a, b in zip(one.factors[name], other.factors[name], strict=True)
    )


def test_what_was_written_is_what_is_read(store: VersionStore) -> None:
    written = write(store)
    assert store.read(written.digest) == written
    assert (written.parent, written.base, written.documents) == (None, BASE, ("d0",))
    assert (written.drift, written.created) == (DRIFT, 12.5)
    delta, memories = store.load(written.digest, BASE)
    assert same(delta, draw(0))
    assert memories == MEMORIES


def test_a_store_opened_again_reads_what_the_first_wrote(store: VersionStore) -> None:
    written = write(store)
    again = VersionStore(store.root)
    assert again.read(written.digest) == written
    assert same(again.load(written.digest, BASE)[0], draw(0))


@pytest.mark.parametrize("delta", [Delta.zero(), Delta({"low.0": (torch.zeros(6, 0), torch.zeros(9, 0))})])
def test_a_version_may_change_nothing(delta: Delta, store: VersionStore) -> None:
    digest = store.write(delta, (), base=BASE, parent=None, documents=[], drift=None, created=0.0).digest
    found, memories = store.load(digest, BASE)
    assert same(found, delta)
    assert memories == ()
    assert store.read(digest).drift is None


def test_factors_that_are_not_contiguous_are_written_as_they_are(store: VersionStore) -> None:
    turned = Delta({name: (left.T.contiguous().T, right.T.contiguous().T) for name, (left, right) in draw(0).factors.items()})
    assert same(store.load(write(store, delta=turned).digest, BASE)[0], turned)


def test_the_same_content_twice_is_one_version(store: VersionStore) -> None:
    assert write(store) == write(store)
    assert len(list(store.root.iterdir())) == 1


@pytest.mark.parametrize("other", [{"parent": "p"}, {"base": "c"}, {"documents": ["x"]}, {"created": 1.0}, {"drift": None}])
def test_any_other_content_is_another_version(other: dict[str, object], store: VersionStore) -> None:
    content = {"base": BASE, "parent": None, "documents": ["d0"], "drift": DRIFT, "created": 0.0}
    digests = {
        store.write(draw(0), MEMORIES, **content).digest,  # type: ignore[arg-type]
        store.write(draw(0), MEMORIES, **content | other).digest,  # type: ignore[arg-type]
        store.write(draw(1), MEMORIES, **content).digest,  # type: ignore[arg-type]
        store.write(draw(0), MEMORIES[:1], **content).digest,  # type: ignore[arg-type]
    }
    assert len(digests) == 4


def test_a_version_is_named_by_the_digest_of_its_manifest(store: VersionStore) -> None:
    digest = write(store).digest
    manifest = (store.root / digest / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == digest
    files = json.loads(manifest)["files"]
    for name, expected in files.items():
        assert hashlib.sha256((store.root / digest / name).read_bytes()).hexdigest() == expected
    assert {path.name for path in (store.root / digest).iterdir()} == {"manifest.json", *files}


def test_the_size_of_a_version_is_that_of_its_files(store: VersionStore) -> None:
    version = write(store)
    assert version.nbytes == sum(path.stat().st_size for path in (store.root / version.digest).iterdir())


def test_no_file_can_hold_code(store: VersionStore) -> None:
    digest = write(store).digest
    assert {path.suffix for path in (store.root / digest).iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "memories.json"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_anywhere_is_noticed(name: str, share: float, store: VersionStore) -> None:
    digest = write(store).digest
    path = store.root / digest / name
    raw = bytearray(path.read_bytes())
    raw[int(share * len(raw))] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(CorruptCheckpoint, match=digest):
        store.load(digest, BASE)


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "memories.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_missing_or_torn_file_is_noticed(name: str, damage: Damage, store: VersionStore) -> None:
    digest = write(store).digest
    damage(store.root / digest / name)
    with pytest.raises(CorruptCheckpoint, match=digest):
        store.load(digest, BASE)


def test_a_version_of_another_base_model_is_refused(store: VersionStore) -> None:
    digest = write(store).digest
    with pytest.raises(CorruptCheckpoint, match=f"made for base model {BASE}, not for other"):
        store.load(digest, "other")
    with pytest.raises(CorruptCheckpoint, match="made for base model"):
        store.rebuild(digest, "other", {})


@pytest.mark.parametrize("digest", ["0" * 64, "../..", ""])
def test_a_version_that_does_not_exist_is_an_error(digest: str, store: VersionStore) -> None:
    write(store)
    with pytest.raises(CorruptCheckpoint):
        store.read(digest)


def test_a_format_of_the_future_is_refused_by_its_number(store: VersionStore) -> None:
    text = json.dumps({"format": 99}).encode()
    digest = hashlib.sha256(text).hexdigest()
    (store.root / digest).mkdir()
    (store.root / digest / "manifest.json").write_bytes(text)
    with pytest.raises(CorruptCheckpoint, match="format 99"):
        store.read(digest)


def test_what_a_crash_left_is_removed_and_nothing_else(store: VersionStore) -> None:
    """What another writer has begun is not left by a crash: it may be writing."""
    version, other = write(store), VersionStore(store.root, "other")
    for name in (".writing-local-1", ".writing-local-2", ".writing-other-1"):
        (store.root / name).mkdir()
        (store.root / name / "delta.safetensors").write_bytes(b"half")
    assert store.clear_unfinished() == 2
    assert {path.name for path in store.root.iterdir()} == {version.digest, ".writing-other-1"}
    assert store.clear_unfinished() == 0
    assert other.clear_unfinished() == 1
    assert [path.name for path in store.root.iterdir()] == [version.digest]


@pytest.mark.parametrize("name", ["", "a-b", "../a", "a*"])
def test_a_writer_whose_name_could_be_taken_for_another_is_refused(store: VersionStore, name: str) -> None:
    with pytest.raises(InvalidConfig):
        VersionStore(store.root, name)


def test_a_crash_before_the_rename_leaves_no_version(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", crash)
        with pytest.raises(OSError, match="power"):
            write(store)
    assert all(path.name.startswith(".writing-") for path in store.root.iterdir())
    store.clear_unfinished()
    assert same(store.load(write(store).digest, BASE)[0], draw(0))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in LAYERS.items()}


def grow(store: VersionStore, count: int) -> list[str]:
    digests: list[str] = []
    for seed in range(count):
        digests.append(write(store, seed, digests[-1] if digests else None).digest)
    return digests


def test_a_chain_leads_from_the_base_to_the_version(store: VersionStore) -> None:
    digests = grow(store, 4)
    assert store.chain(digests[-1]) == digests
    assert store.chain(digests[1]) == digests[:2]
    assert store.chain(None) == []


def test_a_missing_parent_is_an_error(store: VersionStore) -> None:
    orphan = write(store, parent="f" * 64).digest
    with pytest.raises(CorruptCheckpoint, match="f" * 64):
        store.chain(orphan)
    with pytest.raises(CorruptCheckpoint, match="f" * 64):
        store.rebuild(orphan, BASE, {})


def test_rebuilt_weights_are_bit_equal_to_those_that_were_served(store: VersionStore, weights: dict[str, Tensor]) -> None:
    served = DeltaSum(weights)
    for seed, digest in enumerate(grow(store, 5)):
        served.add(draw(seed))
        rebuilt, memories = VersionStore(store.root).rebuild(digest, BASE, weights)
        assert all(torch.equal(rebuilt.weight(name), served.weight(name)) for name in weights)
        assert len(memories) == len(MEMORIES) * (seed + 1)


def test_nothing_rebuilt_is_the_base_itself(store: VersionStore, weights: dict[str, Tensor]) -> None:
    rebuilt, memories = store.rebuild(None, BASE, weights)
    assert all(rebuilt.weight(name) is weights[name] for name in weights)
    assert memories == []


def test_a_damaged_link_breaks_every_version_above_it(store: VersionStore, weights: dict[str, Tensor]) -> None:
    digests = grow(store, 3)
    (store.root / digests[1] / "delta.safetensors").write_bytes(b"")
    store.rebuild(digests[0], BASE, weights)
    for digest in digests[1:]:
        with pytest.raises(CorruptCheckpoint, match=digests[1]):
            store.rebuild(digest, BASE, weights)
