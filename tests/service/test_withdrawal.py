"""Versions that are withdrawn, on a real Valkey: what this process and others know of them afterwards."""

import asyncio
from pathlib import Path

import pytest
import torch

from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from service import keys
from service.connection import Client
from service.documents import Documents
from service.errors import AliasMoved, Fenced, UnknownVersion
from service.job import Claim, Job, NewDocument
from service.lease import Lease
from service.ledger import Ledger
from service.metrics import Metrics
from service.orders import Orders
from service.provenance import ANSWERING, Provenance
from service.queue import JobQueue
from service.version_record import VersionRecord
from service.withdrawal import Changes, Withdrawal

pytestmark = pytest.mark.anyio
NS = "default"
NOBODY = Provenance()


class Chain:
    """Documents `doc-1`, `doc-2`, ..., each in a version of its own."""

    def __init__(self, client: Client, root: Path) -> None:
        self.client, self.store, self.ledger = client, VersionStore(root), Ledger(client, [NS])
        self.queue = JobQueue(client, 100)
        self.orders, self.withdrawal = Orders(client, self.queue, 100), Withdrawal(client, self.ledger)
        self.documents = Documents(client)

    async def begin(self, count: int) -> "Chain":
        await self.queue.prepare([NS])
        await Lease(self.client, [NS], "worker", 60, Metrics()).take()
        for n in range(1, count + 1):
            await self.queue.accept(NS, [NewDocument(f"doc-{n}", f"text {n}", str(n))])
            claim, parent = await self.claim(), self.ledger.resolve(NS)
            delta = Delta({"layer": (torch.full((2, 1), float(n)), torch.ones(3, 1))})
            version = self.store.write(
                delta, [], base="base", parent=parent.digest, documents=[f"doc-{n}"], drift=None, created=float(n), namespace=NS
            )
            await self.ledger.publish(claim, version, parent, {"views": [f"Q: {n}?"]}, [])
            await self.queue.acknowledge(claim)
        return self

    async def claim(self) -> Claim:
        claim = await self.queue.claim({NS: 1}, "learner", 0.01)
        assert claim is not None
        return claim

    async def came_to_nothing(self, document: str, status: str = "succeeded") -> Job:
        await self.queue.accept(NS, [NewDocument(document, f"text of {document}", document)])
        claim = await self.claim()
        await self.documents.came_to_nothing(claim, status, self.ledger.resolve(NS), {"views": []}, [("a", 1.0)])
        await self.queue.acknowledge(claim)
        return await self.queue.read(claim.job.job_id)

    async def withdraw(self, document: str, names: list[str], others: Provenance = NOBODY) -> VersionRecord:
        """As if `document` was taken back."""
        await self.orders.forget(NS, document, exact=False)
        claim, live = await self.claim(), self.ledger.resolve(NS)
        version = self.store.write(
            Delta.zero(), [], base="base", parent=None, members=[], documents=[], drift=None, created=0.0, namespace=NS
        )
        wanted = Changes(live, version, "v1", names, ["digest"], others)
        record = await self.withdrawal(claim, wanted, {"left": 0})
        assert await self.withdrawal(claim, wanted, {"left": 0}) == record, "the answer to the first may have been lost"
        await self.queue.end(claim, "succeeded")
        await self.queue.acknowledge(claim)
        return record


@pytest.fixture
async def chain(client: Client, tmp_path: Path) -> Chain:
    return await Chain(client, tmp_path).begin(4)


async def test_what_is_withdrawn_is_gone_and_what_was_learned_with_it_is_in_the_new_version(chain: Chain) -> None:
    record = await chain.withdraw("doc-2", ["v2", "v3", "v4"], Provenance({"doc-3": ANSWERING}, lost=("doc-4",)))
    assert [r.name for r in chain.ledger.versions(NS)] == ["v0", "v1", "v5"]
    assert (record.name, record.parent, chain.ledger.resolve(NS)) == ("v5", "v1", record)
    documents = {n: await chain.client.hgetall(keys.document(NS, f"doc-{n}")) for n in range(1, 5)}
    assert documents[2] == {}
    assert (documents[1]["version"], documents[3]["version"]) == ("v1", "v5")
    assert "version" not in documents[4]
    assert await chain.client.smembers(keys.doomed(NS)) == {"texts", "digest"}


async def test_a_document_that_went_with_it_can_be_learned_again_and_others_are_not_learned_twice(chain: Chain) -> None:
    await chain.withdraw("doc-2", ["v2", "v3", "v4"], Provenance({"doc-3": ANSWERING}, lost=("doc-4",)))
    [kept] = await chain.queue.accept(NS, [NewDocument("doc-3", "text 3", "3")])
    [lost] = await chain.queue.accept(NS, [NewDocument("doc-4", "text 4", "4")])
    assert (kept.status, lost.status) == ("succeeded", "queued")


async def test_reports_of_a_document_go_with_it(chain: Chain) -> None:
    job = await chain.client.hget(keys.document(NS, "doc-2"), "job")
    await chain.withdraw("doc-2", ["v2", "v3", "v4"])
    assert (await chain.queue.read(str(job))).report is None


async def test_nobody_goes_back_to_a_withdrawn_version_whose_end_it_has_not_heard_of(chain: Chain) -> None:
    late = Ledger(chain.client, [NS])
    await late.load()
    await chain.withdraw("doc-2", ["v2", "v3", "v4"])
    assert late.resolve(NS, "v3").name == "v3"
    with pytest.raises(UnknownVersion):
        await late.move_alias(NS, "v3", None)
    assert await chain.client.get(keys.alias(NS)) == "v5"


async def test_a_process_that_hears_late_of_two_withdrawals_forgets_all_of_them(chain: Chain) -> None:
    """The version that the first led to is withdrawn by the second before anybody has heard of it."""
    late = Ledger(chain.client, [NS])
    await late.load()
    await chain.withdraw("doc-3", ["v3", "v4"])
    await chain.withdraw("doc-2", ["v2", "v5"])

    async def arrive(_: str, __: VersionRecord) -> bool:
        return True

    following = asyncio.create_task(late.follow(arrive))
    async with asyncio.timeout(30):
        await late.reached(NS, "v6")
        while len(late.versions(NS)) != 3:
            await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert [r.name for r in late.versions(NS)] == ["v0", "v1", "v6"]


async def test_a_withdrawal_on_top_of_what_is_not_served_any_more_changes_nothing(chain: Chain) -> None:
    await chain.orders.forget(NS, "doc-2", exact=False)
    claim, live = await chain.claim(), chain.ledger.resolve(NS)
    await chain.ledger.move_alias(NS, "v1", None)
    with pytest.raises(AliasMoved):
        await chain.withdrawal(claim, Changes(live, None, None, ["v2"], [], NOBODY), {})
    assert [r.name for r in chain.ledger.versions(NS)] == ["v0", "v1", "v2", "v3", "v4"]


async def test_an_outdated_worker_withdraws_nothing(chain: Chain) -> None:
    await chain.orders.forget(NS, "doc-2", exact=False)
    claim, live = await chain.claim(), chain.ledger.resolve(NS)
    await chain.client.incr(keys.fence(NS))
    with pytest.raises(Fenced):
        await chain.withdrawal(claim, Changes(live, None, None, ["v2"], [], NOBODY), {})
    assert await chain.client.hexists(keys.versions(NS), "v2")


@pytest.mark.parametrize("status", ["succeeded", "rejected"])
async def test_what_came_to_nothing_on_it_is_queued_again_as_the_same_job_as_if_it_had_never_been_tried(
    chain: Chain, status: str
) -> None:
    job = await chain.came_to_nothing("twin", status)
    assert (job.status, job.version) == (status, None if status == "rejected" else "v4")
    await chain.withdraw("doc-2", ["v2", "v3", "v4"], Provenance(again=("twin",)))
    [posted] = await chain.queue.accept(NS, [NewDocument("twin", "text of twin", "twin")])
    assert posted == await chain.queue.read(job.job_id), "posted again, it is the same job"
    assert (posted.status, posted.version, posted.report, posted.attempts) == ("queued", None, None, 0)
    assert posted.accepted_at > job.accepted_at
    assert (await chain.documents.read(NS, "twin"))["version"] is None
    claim = await chain.claim()
    assert (claim.job.job_id, claim.job.attempts, await chain.queue.depth(NS)) == (job.job_id, 1, 1)
    await chain.documents.came_to_nothing(claim, "succeeded", chain.ledger.resolve(NS), {}, [])
    seen = [event[1]["status"] async for event in chain.queue.follow(job.job_id) if event is not None]
    assert seen == ["queued", "running", status, "queued", "running", "succeeded"]
    assert (await chain.documents.read(NS, "twin"))["version"] == "v5"
    assert (await chain.client.hget(keys.document(NS, "twin"), "jobs")) == job.job_id


async def test_what_knows_the_same_stands_for_a_document_whose_version_goes(chain: Chain) -> None:
    await chain.came_to_nothing("twin")
    await chain.withdraw("doc-4", ["v4"], Provenance({"twin": "v1"}))
    assert (await chain.documents.read(NS, "twin"))["version"] == "v1"
    assert await chain.queue.depth(NS) == 0


async def test_what_is_to_be_taken_back_or_was_posted_with_another_text_meanwhile_is_not_queued_again(chain: Chain) -> None:
    for name in ("leaving", "replaced", "gone"):
        await chain.came_to_nothing(name)
    await chain.orders.forget(NS, "doc-2", exact=False)
    claim, live = await chain.claim(), chain.ledger.resolve(NS)
    leaving = await chain.orders.forget(NS, "leaving", exact=False)
    [replaced] = await chain.queue.accept(NS, [NewDocument("replaced", "another text", "other")])
    await chain.client.delete(keys.document(NS, "gone"))
    others = Provenance(again=("leaving", "replaced", "gone"))
    await chain.withdrawal(claim, Changes(live, None, None, ["v2", "v3"], [], others), {})
    queued = [fields["job"] for _, fields in await chain.client.xrange(keys.jobs(NS))]
    assert queued == [claim.job.job_id, leaving.job_id, replaced.job_id]
    assert not await chain.client.exists(keys.document(NS, "gone"))
    await chain.queue.cancel(leaving.job_id)
    [again] = await chain.queue.accept(NS, [NewDocument("leaving", "text of leaving", "leaving")])
    assert again.status == "queued", "should it not be taken back after all, it can be posted"
    assert (await chain.documents.read(NS, "replaced"))["text"] == "another text"


async def test_a_full_queue_keeps_nothing_from_being_queued_again(chain: Chain) -> None:
    names = [f"twin-{n}" for n in range(3)]
    for name in names:
        await chain.came_to_nothing(name)
    chain.orders = Orders(chain.client, chain.queue, 1)
    await chain.withdraw("doc-2", ["v2", "v3", "v4"], Provenance(again=tuple(names)))
    assert await chain.queue.depth(NS) == 3
    claimed = []
    for _ in names:
        claimed.append(await chain.claim())
        await chain.queue.end(claimed[-1], "failed")
        await chain.queue.acknowledge(claimed[-1])
    assert [claim.job.document_id for claim in claimed] == names, "in the order in which they came"
