"""One worker writes a namespace at a time, on a real Valkey; what an outdated one asks for changes nothing."""

import asyncio
from pathlib import Path

import pytest
import torch

from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from service import keys
from service.connection import Client
from service.documents import Documents
from service.errors import Fenced
from service.job import Claim, NewDocument
from service.lease import Lease
from service.ledger import Ledger
from service.metrics import Metrics
from service.queue import JobQueue
from service.valkey import DataLock
from service.version_record import BASE_RECORD

pytestmark = pytest.mark.anyio
NS, OTHER = "default", "other"


class Holder(Lease):
    """One worker's side, with metrics of its own."""

    def __init__(self, client: Client, writer: str, seconds: float = 60, namespaces: tuple[str, ...] = (NS, OTHER)) -> None:
        self.shown = Metrics()
        super().__init__(client, namespaces, writer, seconds, self.shown)

    def gauge(self, namespace: str = NS) -> float | None:
        return self.shown.registry.get_sample_value("infold_writer", {"namespace": namespace})


async def until_it_runs_out(client: Client, namespace: str = NS) -> None:
    async with asyncio.timeout(30):
        while await client.exists(keys.writer(namespace)):
            await asyncio.sleep(0.01)


async def test_the_first_takes_it_and_the_second_does_not(client: Client) -> None:
    one, two = Holder(client, "one"), Holder(client, "two")
    assert one.gauge() == two.gauge() == 0
    await one.take()
    await two.take()
    assert (one.tokens, two.tokens) == ({NS: 1, OTHER: 1}, {})
    assert (one.gauge(), two.gauge()) == (1, 0)
    assert await client.get(keys.writer(NS)) == "one"


async def test_namespaces_are_taken_apart(client: Client) -> None:
    one, two = Holder(client, "one", namespaces=(NS,)), Holder(client, "two")
    await one.take()
    await two.take()
    assert (one.tokens, two.tokens) == ({NS: 1}, {OTHER: 1})
    assert (two.gauge(NS), two.gauge(OTHER)) == (0, 1)


async def test_taking_again_what_is_held_changes_nothing(client: Client) -> None:
    one = Holder(client, "one")
    await one.take()
    await one.take()
    assert one.tokens == {NS: 1, OTHER: 1}


async def test_it_runs_out_and_the_next_gets_a_higher_token(client: Client) -> None:
    one, two = Holder(client, "one", seconds=0.1), Holder(client, "two")
    await one.take()
    await until_it_runs_out(client)
    await until_it_runs_out(client, OTHER)
    await two.take()
    assert two.tokens == {NS: 2, OTHER: 2}
    await one.renew()
    assert one.tokens == {}
    assert one.gauge() == 0
    assert await client.get(keys.writer(NS)) == "two"


async def test_what_is_renewed_does_not_run_out(client: Client) -> None:
    one, two = Holder(client, "one", seconds=1), Holder(client, "two")
    await one.take()
    async with one.kept():
        left, renewed = await client.pttl(keys.writer(NS)), False
        async with asyncio.timeout(30):
            while not renewed:
                await asyncio.sleep(0.01)
                now = await client.pttl(keys.writer(NS))
                renewed, left = now > left, now
        await two.take()
        assert two.tokens == {}
    assert one.tokens == {}


async def test_one_that_ran_out_unseen_is_held_on_if_nobody_took_it(client: Client) -> None:
    """So a worker that was stopped for a while, alone, need not begin its document again."""
    one = Holder(client, "one", seconds=0.1)
    await one.take()
    await until_it_runs_out(client)
    await one.renew()
    assert one.tokens == {NS: 1, OTHER: 1}
    assert await client.get(keys.writer(NS)) == "one"


async def test_one_that_is_given_back_is_taken_at_once(client: Client) -> None:
    one, two = Holder(client, "one"), Holder(client, "two")
    await one.take()
    async with one.kept():
        pass
    assert (one.tokens, one.gauge()) == ({}, 0)
    await two.take()
    assert two.tokens == {NS: 2, OTHER: 2}


async def test_an_outdated_one_gives_nothing_back_that_is_not_its_own(client: Client) -> None:
    one, again = Holder(client, "one"), Holder(client, "one")
    await one.take()
    await again.take()
    await one.give_back()
    assert await client.get(keys.writer(NS)) == "one"
    await again.renew()
    assert again.tokens == {NS: 2, OTHER: 2}


async def test_the_next_process_of_a_data_directory_takes_over_at_once_and_outdates_the_one_before(client: Client) -> None:
    before, after = Holder(client, "one"), Holder(client, "one")
    await before.take()
    await after.take()
    assert after.tokens == {NS: 2, OTHER: 2}
    await before.renew()
    assert before.tokens == {}


async def test_two_machines_with_copies_of_one_data_directory_do_not_take_it_from_each_other_forever(client: Client) -> None:
    original, copy = Holder(client, "one"), Holder(client, "one")
    await original.take()
    await copy.take()
    await original.renew()
    await original.take()
    assert original.tokens == {}
    await copy.renew()
    assert copy.tokens == {NS: 2, OTHER: 2}


async def test_a_redis_that_lost_its_data_is_written_again(client: Client) -> None:
    one = Holder(client, "one")
    await one.take()
    await client.flushall()
    await one.renew()
    assert one.tokens == {}
    await one.take()
    assert one.tokens == {NS: 1, OTHER: 1}


@pytest.fixture
async def queue(client: Client) -> JobQueue:
    queue = JobQueue(client, max_depth=5)
    await queue.prepare([NS, OTHER])
    return queue


async def stale(client: Client, queue: JobQueue) -> Claim:
    """A claim whose worker was outdated after it."""
    before = Holder(client, "one")
    await before.take()
    await queue.accept(NS, [NewDocument("doc", "text", "sha")])
    claim = await queue.claim(before.tokens, "learner", 0.01)
    assert claim is not None
    await Holder(client, "one").take()
    return claim


async def state(client: Client) -> dict[str, str]:
    """Every key with its value."""
    found: dict[str, str] = {}
    for key in await client.keys():
        kind = await client.type(key)
        read = {"hash": client.hgetall, "string": client.get, "stream": client.xrange}.get(kind)
        found[key] = str(await read(key)) if read else str(await client.zrange(key, 0, -1))
    return found


async def test_an_outdated_worker_cannot_publish(client: Client, queue: JobQueue, tmp_path: Path) -> None:
    claim, ledger = await stale(client, queue), Ledger(client, [NS])
    parent = ledger.resolve(NS)
    delta = Delta({"layer": (torch.ones(2, 1), torch.ones(3, 1))})
    version = VersionStore(tmp_path).write(delta, [], base="base", parent=None, documents=["doc"], drift=None, created=1.0)
    before = await state(client)
    with pytest.raises(Fenced) as caught:
        await ledger.publish(claim, version, parent, {}, [])
    assert caught.value.namespace == NS
    assert await state(client) == before
    assert ledger.resolve(NS).name == "v0"


@pytest.mark.parametrize("status", ["rejected", "succeeded"])
async def test_an_outdated_worker_cannot_end_a_job(client: Client, queue: JobQueue, status: str) -> None:
    claim = await stale(client, queue)
    before = await state(client)
    with pytest.raises(Fenced):
        await Documents(client).came_to_nothing(claim, status, BASE_RECORD, {}, [("a", 1.0)])
    with pytest.raises(Fenced):
        await queue.end(claim, status, version="v0")
    assert await state(client) == before


async def test_an_outdated_worker_cannot_bury_a_job(client: Client, queue: JobQueue) -> None:
    claim = await stale(client, queue)
    before = await state(client)
    with pytest.raises(Fenced):
        await queue.bury(claim, "it broke")
    assert await state(client) == before
    assert (await queue.depth(NS), await queue.dead_letters(NS)) == (1, 0)


async def test_an_outdated_worker_cannot_start_a_job_and_counts_no_attempt(client: Client, queue: JobQueue) -> None:
    claim = await stale(client, queue)
    with pytest.raises(Fenced):
        await queue.claim({NS: claim.token}, "learner", 0.01)
    assert (await queue.read(claim.job.job_id)).attempts == 1
    again = await queue.claim({NS: 2}, "learner", 0.01)
    assert again is not None
    assert (again.job.job_id, again.job.attempts) == (claim.job.job_id, 2)


async def test_a_data_directory_gives_its_workers_one_name_whatever_becomes_of_them(tmp_path: Path) -> None:
    lock = DataLock(tmp_path / "a", "worker")
    name = lock.name
    assert name == lock.name
    lock.release()
    again, other = DataLock(tmp_path / "a", "worker"), DataLock(tmp_path / "b", "worker")
    assert again.name == name != other.name
    again.release()
    other.release()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["worker.id", "worker.lock"]


async def test_a_name_that_is_torn_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "worker.id").write_text("../half")
    lock = DataLock(tmp_path, "worker")
    assert lock.name.isalnum()
    assert (tmp_path / "worker.id").read_text() == lock.name
    lock.release()
