"""Claim -> learn -> checkpoint -> publish -> acknowledge, and what happens when one of them does not."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Taught
from serving import ThreadServer

from adapters.answers import measure_answers
from adapters.checkpoint import Version, VersionStore
from adapters.config import LearnConfig
from adapters.delta import DeltaSum
from adapters.errors import AdapterError
from adapters.learn_report import Learned
from adapters.learner import Learner
from adapters.measured import curvature_of
from adapters.memory import Memory
from service.canaries import Canaries
from service.connection import Client, connect
from service.dead_letters import DeadLetters
from service.documents import Documents
from service.job import Job, NewDocument
from service.lease import Lease
from service.ledger import Ledger
from service.metrics import Metrics
from service.orders import Orders
from service.queue import JobQueue
from service.residency import Residency
from service.settings import Settings
from service.state import State
from service.worker import Worker

pytestmark = pytest.mark.anyio
NS, OTHER = "default", "other"


class Bench:
    """A worker of its own, with the server's model: queue, ledger and versions belong to the test."""

    def __init__(
        self, server: ThreadServer, client: Client, root: Path, learner: Learner | None = None, name: str = "bench"
    ) -> None:
        runtime = server.runtime
        self.client, self.base, self.name = client, runtime.base, name
        self.settings = Settings(data_dir=root, namespaces=(NS, OTHER), max_attempts=2, lease_seconds=600, snapshot_every=2)
        self.metrics, self.store = Metrics(), VersionStore(root / "versions", name)
        self.queue, self.ledger, self.documents = JobQueue(client, 100), Ledger(client, [NS, OTHER]), Documents(client)
        self.table, self.turns = runtime.engine._table, runtime.turns
        self.residency = Residency(self.table, 2, self.load, self.metrics.resident_versions.set)
        self.learner = learner or runtime.learner

    def load(self, digest: str) -> dict[str, torch.Tensor]:
        total, _ = self.store.rebuild(digest, self.base.digest, self.learner.workspace.base_weights)
        return total.weights()

    @property
    def worker(self) -> Worker:
        """A new one, as after a restart."""
        state = State(
            self.client,
            self.queue,
            Orders(self.client, self.queue, 100),
            self.ledger,
            self.documents,
            Canaries(self.client, 100),
            self.store,
        )
        return Worker(state, self.lease, self.residency, self.learner, self.turns, self.metrics, self.settings)

    @property
    def lease(self) -> Lease:
        """A new one, of the same name."""
        return Lease(self.client, [NS, OTHER], self.name, self.settings.lease_seconds, self.metrics)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        await self.queue.prepare([NS, OTHER])
        await self.ledger.load()
        worker = self.worker
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.stop(30)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for namespace in (NS, OTHER):
                self.residency.pin(namespace, None)

    async def post(self, text: str, name: str = "doc", namespace: str = NS) -> Job:
        [job] = await self.queue.accept(namespace, [NewDocument(name, text, text)])
        return job

    async def final(self, job: Job) -> Job:
        await self.ended(job)
        async with asyncio.timeout(60):
            while await self.queue.depth(job.namespace):
                await asyncio.sleep(0.001)
        return await self.queue.read(job.job_id)

    async def ended(self, job: Job) -> Job:
        async with asyncio.timeout(60):
            async for _ in self.queue.follow(job.job_id):
                pass
        return await self.queue.read(job.job_id)

    async def writes(self, does: bool = True) -> None:
        """Wait until this one may write, or may not any more."""
        async with asyncio.timeout(30):
            while self.metrics.registry.get_sample_value("infold_writer", {"namespace": NS}) != does:
                await asyncio.sleep(0.001)

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("infold_updates_total", {"namespace": NS, "result": result}) or 0.0


@pytest.fixture
def make_bench(server: ThreadServer, client: Client, tmp_path: Path) -> Callable[..., Bench]:
    return lambda learner=None: Bench(server, client, tmp_path, learner)


@pytest.fixture
async def other(server: ThreadServer, flushed: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """A second one on the same Redis, by a connection of its own, with the same versions."""
    connected = connect(flushed)
    yield Bench(server, connected, tmp_path, name="other")
    await connected.aclose()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


class Faulty(Learner):
    """The server's learner, but for what a test lets happen before it learns."""

    def __init__(self, server: ThreadServer, before: Callable[[str], Any]) -> None:
        self.__dict__ |= vars(server.runtime.learner)
        self.before = before

    def learn(self, document: str, current: DeltaSum, memories: Any = (), turn: int = 0, canaries: Any = (), *rest: Any) -> Learned:
        self.before(document)
        return super().learn(document, current, memories, turn, canaries, *rest)


async def test_a_document_becomes_a_version_on_disk_in_memory_and_in_the_ledger(bench: Bench, facts: list[Taught]) -> None:
    async with bench.working():
        job = await bench.final(await bench.post(facts[0].text))
        record = bench.ledger.resolve(NS)
        assert (job.status, job.version, record.name, record.documents) == ("succeeded", "v1", "v1", ("doc",))
        assert record.digest is not None
        assert bench.store.read(record.digest).documents == ("doc",)
        assert bench.residency.lease(record.digest) == record.digest
        assert set(job.report or {}) >= {"views", "tokens_read", "tokens_kept", "folds", "drift", "seconds", "rejection"}
        assert {"view", "score", "fold", "guard", "publish"} <= set((job.report or {})["seconds"])
        assert bench.count("succeeded") == 1


async def test_what_is_served_is_bit_for_bit_what_the_disk_holds(bench: Bench, facts: list[Taught]) -> None:
    async with bench.working():
        for n, fact in enumerate(facts[:3]):
            await bench.final(await bench.post(fact.text, f"doc-{n}"))
        digest = bench.ledger.resolve(NS).digest
        assert digest is not None
        held = bench.table.weights(digest)
        for name, weight in bench.load(digest).items():
            assert torch.equal(held[name], weight)


async def test_a_document_that_teaches_nothing_new_makes_no_version(bench: Bench, facts: list[Taught]) -> None:
    async with bench.working():
        for fact in facts[:3]:
            await bench.final(await bench.post(fact.text, "first"))
            before = bench.ledger.resolve(NS).name
            again = await bench.final(await bench.post(fact.text, "second"))
            if again.version == before:
                break
        assert (again.status, again.version) == ("succeeded", before)
        assert bench.ledger.resolve(NS).name == before
        assert bench.count("unchanged") == 1
        assert (await bench.documents.read(NS, "second"))["version"] == before


async def test_an_update_over_its_budget_is_rejected_with_its_numbers_and_nothing_changes(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught]
) -> None:
    ours, strict = server.runtime.learner, LearnConfig()
    guard = dataclasses.replace(strict.guard, kl_step=1e-12, kl_total=1e-12)
    config = dataclasses.replace(strict, guard=guard)
    curvature = curvature_of(ours.workspace, ours.anchors, server.settings.cache_dir, server.settings.learn.curvature)
    bench = make_bench(Learner(ours.workspace, curvature, ours.anchors, ours.scorer, ours.template, config))
    async with bench.working():
        job = await bench.final(await bench.post(facts[0].text))
    assert (job.status, job.version) == ("rejected", None), "it names no version as if that had learned it"
    assert (await bench.documents.read(NS, job.document_id))["version"] is None
    assert (job.report or {})["rejection"]
    assert (job.report or {})["drift"]["kl"] > 1e-12
    assert bench.ledger.resolve(NS).name == "v0"
    assert bench.count("rejected") == 1
    assert list(bench.store.root.iterdir()) == []


async def test_a_job_that_fails_is_tried_again_and_then_given_up_and_the_next_goes_on(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught]
) -> None:
    tried: list[str] = []

    def before(document: str) -> None:
        tried.append(document)
        if document == facts[0].text:
            raise RuntimeError("out of luck")

    bench = make_bench(Faulty(server, before))
    async with bench.working():
        bad, good = await bench.post(facts[0].text, "bad"), await bench.post(facts[1].text, "good")
        bad, good = await bench.final(bad), await bench.final(good)
    assert (bad.status, bad.error, bad.attempts) == ("failed", "RuntimeError: out of luck", 2)
    assert good.status == "succeeded"
    assert tried == [facts[0].text] * 2 + [facts[1].text]
    assert await bench.queue.dead_letters(NS) == 1
    assert bench.count("failed") == 1


async def test_a_document_that_can_never_be_learned_is_not_tried_again(
    server: ThreadServer, make_bench: Callable[..., Bench]
) -> None:
    def before(_: str) -> None:
        raise AdapterError("nothing to learn from")

    bench = make_bench(Faulty(server, before))
    async with bench.working():
        job = await bench.final(await bench.post("text"))
    assert (job.status, job.error, job.attempts) == ("failed", "nothing to learn from", 1)


async def test_a_job_that_was_delivered_too_often_is_given_up_unlearned(bench: Bench, facts: list[Taught]) -> None:
    await bench.queue.prepare([NS, OTHER])
    job, before = await bench.post(facts[0].text), bench.lease
    await before.take()
    for _ in range(bench.settings.max_attempts):
        await bench.queue.claim(before.tokens, "learner", 0.01)
    async with bench.working():
        job = await bench.final(job)
    assert (job.status, job.error) == ("failed", "gave up after 2 attempts")
    assert bench.ledger.resolve(NS).name == "v0"


async def test_a_rollback_in_the_middle_makes_it_learn_on_top_of_what_is_served_then(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught]
) -> None:
    loop, moves = asyncio.get_running_loop(), ["v0", "v1", "v0"]

    def before(document: str) -> None:
        if document == facts[1].text and moves:
            asyncio.run_coroutine_threadsafe(bench.ledger.move_alias(NS, moves.pop(0), None), loop).result(30)

    bench = make_bench(Faulty(server, before))
    async with bench.working():
        await bench.final(await bench.post(facts[0].text, "one"))
        job = await bench.final(await bench.post(facts[1].text, "two"))
    assert (job.status, job.attempts) == ("succeeded", 1)
    assert bench.ledger.resolve(NS).parent == "v0"
    assert moves == []


async def test_a_crash_before_publishing_is_learned_once_more_and_published_once(
    bench: Bench, facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def crash(*_: Any, **__: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    await bench.queue.prepare([NS, OTHER])
    job = await bench.post(facts[0].text)
    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "publish", crash)
        task = asyncio.create_task(bench.worker.run())
        await asyncio.wait_for(reached.wait(), 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await bench.queue.read(job.job_id)).status == "running"
    async with bench.working():
        job = await bench.final(job)
    assert (job.status, job.version, job.attempts) == ("succeeded", "v1", 2)
    assert [record.name for record in bench.ledger.versions(NS)] == ["v0", "v1"]


async def test_a_crash_after_publishing_is_not_learned_again(
    bench: Bench, facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def crash(_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    await bench.queue.prepare([NS, OTHER])
    job = await bench.post(facts[0].text)
    with monkeypatch.context() as patched:
        patched.setattr(bench.queue, "acknowledge", crash)
        task = asyncio.create_task(bench.worker.run())
        await asyncio.wait_for(reached.wait(), 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with bench.working():
        job = await bench.final(job)
    assert (job.status, job.version, job.attempts) == ("succeeded", "v1", 1)
    assert [record.name for record in bench.ledger.versions(NS)] == ["v0", "v1"]


async def test_namespaces_are_learned_apart(bench: Bench, facts: list[Taught]) -> None:
    async with bench.working():
        jobs = [
            await bench.post(facts[0].text, "a"),
            await bench.post(facts[1].text, "b", OTHER),
            await bench.post(facts[2].text, "c"),
        ]
        assert [(await bench.final(job)).status for job in jobs] == ["succeeded"] * 3
    assert [record.documents for record in bench.ledger.versions(NS)] == [(), ("a",), ("c",)]
    assert [record.documents for record in bench.ledger.versions(OTHER)] == [(), ("b",)]


async def test_stopping_waits_for_the_running_job_and_claims_no_other(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught]
) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    bench = make_bench(Faulty(server, lambda _: loop.call_soon_threadsafe(begun.set)))
    async with bench.working() as worker:
        first, second = await bench.post(facts[0].text, "one"), await bench.post(facts[1].text, "two")
        await asyncio.wait_for(begun.wait(), 30)
        await worker.stop(30)
        assert (await bench.queue.read(first.job_id)).status == "succeeded"
        assert (await bench.queue.read(second.job_id)).status == "queued"


async def test_learning_goes_on_when_redis_comes_back_without_its_data(bench: Bench, facts: list[Taught]) -> None:
    async with bench.working():
        await bench.final(await bench.post(facts[0].text, "one"))
        await bench.client.flushall()
        job = await bench.final(await bench.post(facts[1].text, "two"))
    assert job.status == "succeeded"
    assert bench.ledger.resolve(NS).documents == ("two",)


async def test_memories_of_the_chain_are_rehearsed_after_a_restart(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    async with bench.working():
        for n in range(2):
            await bench.final(await bench.post(facts[n].text, f"doc-{n}"))
    seen: list[int] = []
    learner = Faulty(server, lambda _: None)
    real = learner.learn

    def watch(document: str, current: DeltaSum, memories: list[Memory], turn: int = 0, canaries: Any = (), *rest: Any) -> Learned:
        seen.append(len(memories))
        return real(document, current, memories, turn, canaries, *rest)

    monkeypatch.setattr(learner, "learn", watch)
    bench.learner = learner
    async with bench.working():
        await bench.final(await bench.post(facts[2].text, "doc-2"))
    assert seen
    assert seen[0] >= 2


async def test_a_dead_letter_that_is_retried_is_learned_when_what_kept_it_is_gone(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught]
) -> None:
    luck = [False, False, True]

    def before(_: str) -> None:
        if not luck.pop(0):
            raise RuntimeError("out of luck")

    bench = make_bench(Faulty(server, before))
    async with bench.working():
        job = await bench.final(await bench.post(facts[0].text))
        assert job.status == "failed"
        await DeadLetters(bench.client, bench.queue, 100).retry(job.job_id)
        job = await bench.final(job)
    assert (job.status, job.attempts, job.error, job.version) == ("succeeded", 1, None, "v1")
    assert await bench.queue.dead_letters(NS) == 0


def one_chain(bench: Bench, documents: list[str]) -> None:
    """Each was learned once, on top of the one before."""
    records = bench.ledger.versions(NS)
    assert sorted(name for record in records for name in record.documents) == sorted(documents)
    assert [record.name for record in records] == [f"v{n}" for n in range(len(documents) + 1)]
    assert [record.parent for record in records[1:]] == [record.name for record in records[:-1]]
    digest = bench.ledger.resolve(NS).digest
    assert bench.store.chain(digest) == [record.digest for record in records[1:]]


async def test_of_two_workers_one_learns_and_the_other_goes_on_where_it_stopped(
    bench: Bench, other: Bench, facts: list[Taught]
) -> None:
    names = [f"doc-{n}" for n in range(6)]
    async with AsyncExitStack() as later:
        async with bench.working():
            await bench.writes()
            await later.enter_async_context(other.working())
            jobs = [await other.post(fact.text, name) for fact, name in zip(facts[:6], names, strict=True)]
            for job in jobs[:3]:
                await bench.ended(job)
            assert other.count("succeeded") == 0
        by_the_first = bench.count("succeeded")
        assert [(job.status, job.attempts) for job in [await other.final(job) for job in jobs]] == [("succeeded", 1)] * 6
        one_chain(other, names)
        assert by_the_first >= 3
        assert by_the_first + other.count("succeeded") == 6


class Slow(VersionStore):
    """Writes when it is told to."""

    def __init__(self, root: Path, writer: str) -> None:
        super().__init__(root, writer)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def write(self, *arguments: Any, **more: Any) -> Version:
        self.reached.set()
        assert self.go_on.wait(60)
        return super().write(*arguments, **more)


async def test_a_worker_that_wakes_up_outdated_changes_nothing_and_waits_for_its_turn(
    bench: Bench, other: Bench, facts: list[Taught]
) -> None:
    """It was stopped while it wrote its version; what it had begun counts neither as learned nor as failed."""
    bench.store, other.name = Slow(bench.store.root, "bench"), bench.name
    async with bench.working():
        job = await bench.post(facts[0].text, "one")
        assert await asyncio.to_thread(bench.store.reached.wait, 60)
        async with other.working():
            ended = await other.ended(job)
            assert (ended.status, ended.version, ended.attempts) == ("succeeded", "v1", 2)
            bench.store.go_on.set()
            await bench.writes(False)
            assert [bench.count(result) for result in ("succeeded", "unchanged", "rejected", "failed")] == [0, 0, 0, 0]
            assert await bench.queue.read(job.job_id) == ended
            assert await bench.queue.dead_letters(NS) == 0
            await other.final(await other.post(facts[1].text, "two"))
            one_chain(other, ["one", "two"])
        last = await bench.final(await bench.post(facts[2].text, "three"))
        assert (last.status, last.attempts) == ("succeeded", 1)
        one_chain(bench, ["one", "two", "three"])
        assert bench.count("succeeded") == 1


async def test_every_so_many_versions_their_sum_is_written_and_read_after_a_restart(bench: Bench, facts: list[Taught]) -> None:
    base = bench.base.digest
    async with bench.working():
        for n, fact in enumerate(facts[:4]):
            await bench.final(await bench.post(fact.text, f"doc-{n}"))
        lives = [record.digest for record in bench.ledger.versions(NS)]
    assert len(lives) == 5, "each document made a version"
    assert bench.store.snapshots.digests() == {lives[2], lives[4]}
    assert bench.store.behind(lives[4], base) == 0
    served = bench.load(str(lives[4]))
    bench.store.snapshots.remove([str(lives[2]), str(lives[4])])
    assert all(torch.equal(served[name], weight) for name, weight in bench.load(str(lives[4])).items())
    async with bench.working():
        await bench.final(await bench.post(facts[4].text, "doc-4"))
        last = bench.ledger.resolve(NS).digest
    assert bench.store.behind(last, base) == 0, "what was missed is made up for after the next version"


async def test_what_the_metric_has_counted_is_not_counted_again_after_a_restart(
    server: ThreadServer, make_bench: Callable[..., Bench], facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = server.runtime.learner
    config = dataclasses.replace(LearnConfig(), curvature=dataclasses.replace(server.settings.learn.curvature, block=1))
    curvature = curvature_of(ours.workspace, ours.anchors, server.settings.cache_dir, server.settings.learn.curvature)

    def fresh() -> Learner:
        return Learner(ours.workspace, curvature, ours.anchors, ours.scorer, ours.template, config)

    bench = make_bench(fresh())
    async with bench.working():
        for n, fact in enumerate(facts[:2]):
            await bench.final(await bench.post(fact.text, f"doc-{n}"))
    counted = bench.store.counted(bench.ledger.resolve(NS).digest, bench.base.digest)
    assert counted is not None, "of the first document's lessons, when the second was learned"
    bench.learner, measured = fresh(), []

    def watch(workspace: Any, memories: list[Memory], moments: Any = None) -> Any:
        measured.extend(memories)
        return real(workspace, memories, moments)

    real = measure_answers
    monkeypatch.setattr("adapters.metric.measure_answers", watch)
    async with bench.working():
        await bench.final(await bench.post(facts[2].text, "doc-2"))
        _, lessons = bench.store.rebuild(bench.ledger.versions(NS)[2].digest, bench.base.digest, ours.workspace.base_weights)
    assert measured == lessons[counted.lessons :]


async def test_a_snapshot_that_cannot_be_written_keeps_nobody_from_learning(
    bench: Bench, facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(bench.store.snapshots, "write", full)
    async with bench.working():
        jobs = [await bench.final(await bench.post(fact.text, f"doc-{n}")) for n, fact in enumerate(facts[:3])]
    assert [job.status for job in jobs] == ["succeeded"] * 3
    assert bench.store.snapshots.digests() == set()
