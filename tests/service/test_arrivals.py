"""What another process published: resident before it is served, and not served if it cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapters.base_model import BaseModel
from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from adapters.targets import find_targets
from adapters.versioned_linear import VersionTable
from adapters.workspace import Workspace
from service import arrivals
from service.arrivals import Arrivals
from service.connection import Client
from service.ledger import Ledger
from service.metrics import Metrics
from service.queue import JobQueue
from service.residency import Residency
from service.version_record import VersionRecord

pytestmark = pytest.mark.anyio
NS = "default"


class Bench:
    """A store that another process writes into, and a server's side of it."""

    def __init__(self, base: BaseModel, client: Client, root: Path) -> None:
        targets = find_targets(base.model)
        self.base, self.store = base, VersionStore(root)
        self.weights = Workspace(base, targets).base_weights
        self.table = VersionTable(base.model, targets)
        self.residency = Residency(self.table, 2, self.load, lambda _: None)
        self.loaded: list[str] = []
        ledger, queue = Ledger(client, [NS]), JobQueue(client, 10)
        self.arrivals = Arrivals(ledger, queue, self.store, self.residency, Metrics(), base.digest, self.weights)

    def load(self, digest: str) -> dict[str, torch.Tensor]:
        self.loaded.append(digest)
        return self.store.rebuild(digest, self.base.digest, self.weights)[0].weights()

    def write(self, parent: VersionRecord | None, number: int) -> VersionRecord:
        name, weight = next(iter(self.weights.items()))
        delta = Delta({name: (torch.full((weight.shape[0], 1), 0.1 * number), torch.ones(weight.shape[1], 1))})
        version = self.store.write(
            delta, [], base=self.base.digest, parent=parent and parent.digest, documents=[f"d{number}"], drift=None, created=1.0
        )
        return VersionRecord(f"v{number}", version.digest, None, version.documents, None, 1.0, None, 1)


@pytest.fixture
def bench(tiny: Callable[..., BaseModel], client: Client, tmp_path: Path) -> Bench:
    return Bench(tiny(dtype=torch.float32), client, tmp_path)


async def test_each_version_is_what_its_chain_sums_to_also_after_going_back(bench: Bench) -> None:
    first = bench.write(None, 1)
    second = bench.write(first, 2)
    third, other = bench.write(second, 3), bench.write(first, 4)
    name = next(iter(bench.weights))
    for record in (first, second, third, first, other):
        assert await bench.arrivals._arrive(NS, record)
        assert record.digest in bench.table.resident
        expected = bench.store.rebuild(record.digest, bench.base.digest, bench.weights)[0].weight(name)
        assert torch.equal(bench.table.weights(record.digest)[name], expected)
    assert bench.loaded == [], "the residency had to load nothing itself"


async def test_a_version_that_cannot_be_read_is_not_served(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PATIENCE_SECONDS", 0.0)
    first = bench.write(None, 1)
    second = bench.write(first, 2)
    assert await bench.arrivals._arrive(NS, first)
    (bench.store.root / str(second.digest) / "delta.safetensors").write_bytes(b"torn")
    assert not await bench.arrivals._arrive(NS, second)
    assert second.digest not in bench.table.resident
    assert first.digest in bench.table.resident
