"""The ledger that starts are measured on is a real one, of the demo model's."""

from pathlib import Path

from adapters.base_model import load_base_model
from adapters.checkpoint import VersionStore
from adapters.demo import MODEL_PATH
from adapters.targets import find_targets
from adapters.workspace import Workspace
from benchmarks.ledger.startup import made_of, medians
from benchmarks.ledger.synthetic import Made, make_ledger


def test_each_document_is_a_version_of_the_demo_model_that_changes_next_to_nothing(tmp_path: Path) -> None:
    base = load_base_model(str(MODEL_PATH))
    made = make_ledger(tmp_path, base, 6)
    assert len(made.seconds) == 5
    assert len(made.store_bytes) == 3
    assert min(made.store_bytes) > 0
    store = VersionStore(tmp_path / "versions")
    versions = sorted(store.versions(), key=lambda version: version.created)
    assert store.chain(versions[-1].digest) == [version.digest for version in versions]
    assert [version.documents for version in versions] == [(f"doc-{n:06}",) for n in range(6)]
    weights = Workspace(base, find_targets(base.model)).base_weights
    total, memories = store.rebuild(versions[-1].digest, base.digest, weights)
    assert 12 <= len(memories) <= 18
    assert all(0 < float((total.weight(name) - weight).abs().max()) < 1e-5 for name, weight in weights.items())


def test_the_account_compares_the_ends_and_the_halves() -> None:
    seconds = tuple([0.01] * 500 + [0.02] * 499)
    found = made_of(Made(seconds, (1000, 51_000, 111_000)))
    assert (found["documents"], found["first_ms"], found["last_ms"]) == (1000, 10.0, 20.0)
    assert (found["redis_bytes_per_document_first_half"], found["redis_bytes_per_document_second_half"]) == (100, 120)
    assert medians([{"ready": 1.0}, {"ready": 5.0}, {"ready": 2.0}]) == {"ready": 2.0}
