"""Which version learned what, and which one answers, on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.checkpoint import Version, VersionStore
from adapters.delta import Delta
from adapters.drift import Drift
from service import keys
from service.connection import Client
from service.errors import AliasMoved, UnknownNamespace, UnknownVersion
from service.job import Claim, NewDocument
from service.ledger import Ledger
from service.queue import JobQueue
from service.version_record import VersionRecord

pytestmark = pytest.mark.anyio
NS, OTHER = "default", "other"
TOKENS = [("Oslo", 1.0), (".", 0.0)]
REPORT: dict[str, Any] = {"views": ["Q: Where? A: Oslo."], "seconds": {}}


@pytest.fixture
async def ledger(client: Client) -> Ledger:
    return Ledger(client, [NS, OTHER])


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path)


async def claimed(queue: JobQueue, name: str = "doc", namespace: str = NS) -> Claim:
    await queue.accept(namespace, [NewDocument(name, f"text of {name}", name, {"by": "me"})])
    claim = await queue.claim({namespace: 1}, "learner", 0.01)
    assert claim is not None
    return claim


def written(store: VersionStore, parent: VersionRecord, document: str = "doc") -> Version:
    delta = Delta({"layer": (torch.ones(2, 1), torch.ones(3, 1))})
    return store.write(
        delta, [], base="base", parent=parent.digest, documents=[document], drift=Drift(0.001, 1.0, 1.0), created=len(document)
    )


async def publish(ledger: Ledger, queue: JobQueue, store: VersionStore, name: str = "doc", namespace: str = NS) -> VersionRecord:
    claim = await claimed(queue, name, namespace)
    parent = ledger.resolve(namespace)
    return await ledger.publish(claim, written(store, parent, name), parent, REPORT, TOKENS)


async def test_the_base_model_answers_first(ledger: Ledger) -> None:
    record = ledger.resolve(NS)
    assert (record.name, record.digest, record.parent, record.documents) == ("v0", None, None, ())
    assert ledger.versions(NS) == [record]
    assert ledger.digests() == set()


async def test_publishing_registers_the_version_moves_the_alias_and_ends_the_job(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    claim, parent = await claimed(queue), ledger.resolve(NS)
    version = written(store, parent)
    record = await ledger.publish(claim, version, parent, REPORT, TOKENS)
    assert (record.name, record.digest, record.parent, record.documents) == ("v1", version.digest, "v0", ("doc",))
    assert record.drift == {"kl": 0.001, "taken": 1.0, "retained": 1.0, "canaries": 1.0}
    assert ledger.resolve(NS) == ledger.resolve(NS, "v1") == record
    assert await client.get(keys.alias(NS)) == "v1"
    job = await queue.read(claim.job.job_id)
    assert (job.status, job.version, job.report) == ("succeeded", "v1", REPORT)
    assert ledger.digests() == {version.digest}


async def test_versions_are_numbered_one_after_the_other_in_each_namespace(
    ledger: Ledger, queue: JobQueue, store: VersionStore
) -> None:
    names = [(await publish(ledger, queue, store, f"doc-{n}")).name for n in range(12)]
    assert names == [f"v{n}" for n in range(1, 13)]
    assert [record.name for record in ledger.versions(NS)] == ["v0", *names]
    assert (await publish(ledger, queue, store, "doc", OTHER)).name == "v1"


async def test_publishing_twice_for_one_job_registers_one_version(ledger: Ledger, queue: JobQueue, store: VersionStore) -> None:
    claim, parent = await claimed(queue), ledger.resolve(NS)
    version = written(store, parent)
    once = await ledger.publish(claim, version, parent, REPORT, TOKENS)
    again = await ledger.publish(claim, version, parent, REPORT, TOKENS)
    assert once == again
    assert [record.name for record in ledger.versions(NS)] == ["v0", "v1"]


async def test_publishing_again_after_a_lost_answer_finds_the_version(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    claim, parent = await claimed(queue), ledger.resolve(NS)
    version = written(store, parent)
    await Ledger(client, [NS, OTHER]).publish(claim, version, parent, REPORT, TOKENS)
    assert ledger.resolve(NS).name == "v0"
    assert (await ledger.publish(claim, version, parent, REPORT, TOKENS)).name == "v1"
    assert ledger.resolve(NS).name == "v1"


async def test_publishing_on_top_of_what_is_not_served_any_more_changes_nothing(
    ledger: Ledger, queue: JobQueue, store: VersionStore
) -> None:
    first = await publish(ledger, queue, store, "one")
    claim = await claimed(queue, "two")
    await ledger.move_alias(NS, "v0", None)
    with pytest.raises(AliasMoved, match="the head of 'default' is v0, not v1"):
        await ledger.publish(claim, written(store, first, "two"), first, REPORT, TOKENS)
    assert ledger.resolve(NS).name == "v0"
    assert (await queue.read(claim.job.job_id)).status == "running"
    assert [record.name for record in ledger.versions(NS)] == ["v0", "v1"]


async def test_a_publisher_that_did_not_see_the_alias_move_sees_it_then(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    first = await publish(ledger, queue, store, "one")
    await Ledger(client, [NS, OTHER])._redis.set(keys.alias(NS), "v0")
    claim = await claimed(queue, "two")
    with pytest.raises(AliasMoved):
        await ledger.publish(claim, written(store, first, "two"), first, REPORT, TOKENS)
    parent = ledger.resolve(NS)
    assert (await ledger.publish(claim, written(store, parent, "two"), parent, REPORT, TOKENS)).parent == "v0"


async def test_rolling_back_moves_the_alias_only_from_what_was_expected(
    ledger: Ledger, queue: JobQueue, store: VersionStore
) -> None:
    await publish(ledger, queue, store)
    with pytest.raises(AliasMoved, match="points to v1, not to v7"):
        await ledger.move_alias(NS, "v0", "v7")
    assert ledger.resolve(NS).name == "v1"
    assert (await ledger.move_alias(NS, "v0", "v1")).name == "v0"
    assert ledger.resolve(NS).name == "v0"
    assert (await ledger.move_alias(NS, "v1", None)).name == "v1"


async def test_learning_goes_on_after_a_rollback_under_a_new_number(ledger: Ledger, queue: JobQueue, store: VersionStore) -> None:
    await publish(ledger, queue, store, "one")
    await ledger.move_alias(NS, "v0", "v1")
    record = await publish(ledger, queue, store, "two")
    assert (record.name, record.parent) == ("v2", "v0")


async def test_everything_is_there_after_a_restart(ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client) -> None:
    await publish(ledger, queue, store, "one")
    await publish(ledger, queue, store, "two")
    await ledger.move_alias(NS, "v1", "v2")
    again = Ledger(client, [NS, OTHER])
    await again.load()
    assert again.versions(NS) == ledger.versions(NS)
    assert again.resolve(NS).name == "v1"
    assert again.resolve(OTHER).name == "v0"


async def test_unknown_names_are_errors(ledger: Ledger) -> None:
    with pytest.raises(UnknownNamespace):
        ledger.check("nowhere")
    with pytest.raises(UnknownNamespace):
        ledger.resolve("nowhere", "v0")
    with pytest.raises(UnknownVersion):
        ledger.resolve(NS, "v1")
    with pytest.raises(UnknownVersion):
        await ledger.move_alias(NS, "v1", None)


class Follower:
    """A second process's ledger, that follows the first."""

    def __init__(self, client: Client) -> None:
        self.ledger = Ledger(client, [NS, OTHER])
        self.arrived: list[tuple[str, str]] = []
        self.unreadable: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def arrive(self, namespace: str, record: VersionRecord) -> bool:
        await self.gate.wait()
        self.arrived.append((namespace, record.name))
        return record.name not in self.unreadable

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        await self.ledger.load()
        task = asyncio.create_task(self.ledger.follow(self.arrive))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_another_process_hears_of_what_is_published_and_moved_back(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    await publish(ledger, queue, store, "before")
    other = Follower(client)
    async with other.following():
        records = [await publish(ledger, queue, store, f"doc-{n}") for n in range(3)]
        await publish(ledger, queue, store, "there", OTHER)
        await ledger.move_alias(NS, "v2", None)
        async with asyncio.timeout(10):
            while other.ledger.resolve(NS).name != "v2" or len(other.arrived) < 5:
                await asyncio.sleep(0.001)
    assert other.arrived == [(NS, "v2"), (NS, "v3"), (NS, "v4"), (OTHER, "v1"), (NS, "v2")]
    assert other.ledger.versions(NS) == ledger.versions(NS)
    assert [other.ledger.resolve(NS, r.name) for r in records] == records


async def test_a_version_counts_as_reached_once_it_has_arrived_and_not_before(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    other = Follower(client)
    other.gate.clear()
    async with other.following():
        await publish(ledger, queue, store)
        waiting = asyncio.create_task(other.ledger.reached(NS, "v1"))
        await ledger.reached(NS, "v1")  # here it has
        await queue.accept(NS, [NewDocument("later", "text", "later")])
        assert not waiting.done()
        assert other.ledger.resolve(NS).name == "v0"
        other.gate.set()
        async with asyncio.timeout(10):
            await waiting
        assert other.ledger.resolve(NS).name == "v1"
        await other.ledger.reached(NS, "v0")


async def test_what_is_heard_late_moves_no_alias_back(ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client) -> None:
    """A process hears of its own moves too, after it has made later ones."""
    arrived: list[str] = []

    async def arrive(_: str, record: VersionRecord) -> bool:
        arrived.append(record.name)
        return True

    for n in range(3):
        await publish(ledger, queue, store, f"doc-{n}")
    task = asyncio.create_task(ledger.follow(arrive))
    other = Ledger(client, [NS, OTHER])
    await other.load()
    await other.move_alias(NS, "v1", None)
    async with asyncio.timeout(10):
        while not arrived:
            await asyncio.sleep(0.001)
            assert ledger.resolve(NS).name in ("v3", "v1")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert arrived == ["v1"]


async def test_what_cannot_be_served_is_not_resolved_to(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client
) -> None:
    other = Follower(client)
    other.unreadable = {"v2"}
    async with other.following():
        for n in range(2):
            await publish(ledger, queue, store, f"doc-{n}")
        async with asyncio.timeout(10):
            while len(other.arrived) < 2:
                await asyncio.sleep(0.001)
        assert other.ledger.resolve(NS).name == "v1"
        await publish(ledger, queue, store, "doc-3")
        async with asyncio.timeout(10):
            await other.ledger.reached(NS, "v3")
        assert other.ledger.resolve(NS).name == "v3"


async def test_a_late_answer_of_load_moves_no_alias_back(
    ledger: Ledger, queue: JobQueue, store: VersionStore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is read before a version is published, and the answer arrives after it."""
    await publish(ledger, queue, store, "doc-1")
    read, go_on, whole = asyncio.Event(), asyncio.Event(), client.pipeline

    def slow(*given: Any, **more: Any) -> Any:
        pipe = whole(*given, **more)
        execute = pipe.execute

        async def later(*arguments: Any) -> Any:
            answers = await execute(*arguments)
            read.set()
            await go_on.wait()
            return answers

        pipe.execute = later
        return pipe

    monkeypatch.setattr(client, "pipeline", slow)
    loading = asyncio.create_task(ledger.load())
    await read.wait()
    monkeypatch.undo()
    await publish(ledger, queue, store, "doc-2")
    go_on.set()
    await loading
    assert ledger.resolve(NS).name == "v2"
