"""What became of documents, and taking them back from the queue's side, on a real Valkey."""

from pathlib import Path

import pytest
import torch

from adapters.checkpoint import VersionStore
from adapters.delta import Delta
from service import keys
from service.connection import Client
from service.documents import Documents, Mark
from service.errors import AliasMoved, QueueFull, UnknownDocument
from service.job import Claim, NewDocument
from service.ledger import Ledger
from service.orders import Orders
from service.queue import JobQueue
from service.version_record import BASE_RECORD

pytestmark = pytest.mark.anyio
NS, OTHER = "default", "other"
TOKENS = [("Oslo", 1.0), (".", 0.0)]


@pytest.fixture
def documents(client: Client) -> Documents:
    return Documents(client)


@pytest.fixture
def orders(client: Client, queue: JobQueue) -> Orders:
    return Orders(client, queue, 100)


async def claimed(queue: JobQueue) -> Claim:
    await queue.accept(NS, [NewDocument("doc", "text of doc", "doc", {"by": "me"})])
    claim = await queue.claim({NS: 1}, "learner", 0.01)
    assert claim is not None
    return claim


async def publish(client: Client, queue: JobQueue, root: Path) -> None:
    claim, ledger = await claimed(queue), Ledger(client, [NS])
    delta, parent = Delta({"layer": (torch.ones(2, 1), torch.ones(3, 1))}), ledger.resolve(NS)
    version = VersionStore(root).write(delta, [], base="base", parent=None, documents=["doc"], drift=None, created=1.0)
    await ledger.publish(claim, version, parent, {"views": ["Q: Where? A: Oslo."]}, TOKENS)
    await queue.acknowledge(claim)


async def test_a_document_tells_its_text_its_tokens_and_the_version_that_learned_it(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await queue.accept(NS, [NewDocument("doc", "text of doc", "doc", {"by": "me"})])
    before = await documents.read(NS, "doc")
    assert (before["version"], before["tokens"], before["learned_at"]) == (None, [], None)
    await publish(client, queue, tmp_path)
    found = await documents.read(NS, "doc")
    assert (found["text"], found["metadata"], found["version"]) == ("text of doc", {"by": "me"}, "v1")
    assert found["tokens"] == [{"text": "Oslo", "weight": 1.0}, {"text": ".", "weight": 0.0}]
    assert found["learned_at"] >= found["accepted_at"]


async def test_a_document_with_a_new_text_does_not_show_how_the_old_one_was_read(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await publish(client, queue, tmp_path)
    await queue.accept(NS, [NewDocument("doc", "new text", "new", {})])
    found = await documents.read(NS, "doc")
    assert (found["text"], found["version"], found["tokens"]) == ("new text", None, [])


async def test_documents_are_listed_newest_first_in_pages(documents: Documents, queue: JobQueue) -> None:
    for n in range(5):
        await queue.accept(NS, [NewDocument(f"doc-{n}", "text", str(n))])
    assert await documents.ids(NS, 1, 2) == (["doc-3", "doc-2"], 5)
    assert await documents.ids(OTHER, 0, 10) == ([], 0)


@pytest.mark.parametrize(("status", "version"), [("succeeded", "v0"), ("rejected", None)])
async def test_a_document_that_changed_nothing_shows_how_it_was_read_and_which_version_knew_it(
    documents: Documents, queue: JobQueue, status: str, version: str | None
) -> None:
    claim = await claimed(queue)
    for _ in range(2):  # the answer to the first may have been lost
        await documents.came_to_nothing(claim, status, BASE_RECORD, {"views": []}, TOKENS)
    found, job = await documents.read(NS, "doc"), await queue.read(claim.job.job_id)
    assert (found["version"], len(found["tokens"])) == (version, 2)
    assert (job.status, job.version, job.report) == (status, version, {"views": []})
    seen = [event[1]["status"] async for event in queue.follow(job.job_id) if event is not None]
    assert seen == ["queued", "running", status]


async def test_a_document_comes_to_nothing_only_on_what_is_served(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await publish(client, queue, tmp_path)
    await queue.accept(NS, [NewDocument("late", "text", "sha")])
    claim = await queue.claim({NS: 1}, "learner", 0.01)
    assert claim is not None
    with pytest.raises(AliasMoved):
        await documents.came_to_nothing(claim, "succeeded", BASE_RECORD, {}, TOKENS)
    assert (await queue.read(claim.job.job_id)).status == "running"
    await client.set(keys.shadow(NS), "v7")
    with pytest.raises(AliasMoved):
        await documents.came_to_nothing(claim, "succeeded", BASE_RECORD, {}, TOKENS, served=False)


async def test_how_an_old_text_was_read_is_not_noted_of_a_new_one(documents: Documents, queue: JobQueue) -> None:
    claim = await claimed(queue)
    await queue.accept(NS, [NewDocument("doc", "new text", "new")])
    await documents.came_to_nothing(claim, "succeeded", BASE_RECORD, {}, TOKENS)
    found = await documents.read(NS, "doc")
    assert (found["text"], found["version"], found["tokens"]) == ("new text", None, [])


async def test_documents_that_name_none_of_some_versions_are_found_with_what_they_came_to_nothing_on(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await publish(client, queue, tmp_path)
    ledger = Ledger(client, [NS])
    await ledger.load()
    await queue.accept(NS, [NewDocument("nothing", "text", "sha"), NewDocument("waiting", "text", "sha")])
    claim = await queue.claim({NS: 1}, "learner", 0.01)
    assert claim is not None
    await documents.came_to_nothing(claim, "rejected", ledger.resolve(NS), {}, TOKENS)
    assert await documents.marked(NS, {"v0", "v1"}) == []
    await Orders(client, queue, 100).forget(NS, "doc", exact=False)
    digest = ledger.resolve(NS).digest
    assert await documents.marked(NS, {"v0"}) == [Mark("doc", "v1", None, leaving=True), Mark("nothing", "v1", digest)]


async def test_only_texts_that_were_learned_and_are_still_there_are_given_to_be_learned_anew(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await publish(client, queue, tmp_path)
    await queue.accept(NS, [NewDocument("waiting", "text", "sha")])
    assert await documents.texts(NS, ["doc", "waiting", "none"]) == ["text of doc", None, None]
    await queue.accept(NS, [NewDocument("doc", "another text", "other")])
    assert await documents.texts(NS, ["doc"]) == [None]


async def test_a_text_that_came_to_nothing_is_not_learned_anew_in_the_place_of_the_one_before(
    documents: Documents, queue: JobQueue, client: Client, tmp_path: Path
) -> None:
    await publish(client, queue, tmp_path)
    ledger = Ledger(client, [NS])
    await ledger.load()
    await queue.accept(NS, [NewDocument("doc", "another text", "other")])
    claim = await queue.claim({NS: 1}, "learner", 0.01)
    assert claim is not None
    await documents.came_to_nothing(claim, "succeeded", ledger.resolve(NS), {}, TOKENS)
    assert await documents.texts(NS, ["doc"]) == [None]


async def test_what_is_not_there_cannot_be_forgotten(orders: Orders) -> None:
    with pytest.raises(UnknownDocument):
        await orders.forget(NS, "none", exact=False)


async def test_forgetting_is_one_job_until_it_has_ended_and_may_be_asked_to_be_exact(queue: JobQueue, orders: Orders) -> None:
    await queue.accept(NS, [NewDocument("doc", "text", "sha")])
    first = await orders.forget(NS, "doc", exact=False)
    assert (first.kind, first.status, first.exact) == ("forget", "queued", False)
    again = await orders.forget(NS, "doc", exact=True)
    assert (again.job_id, again.exact) == (first.job_id, True)
    assert (await orders.forget(NS, "doc", exact=False)).exact, "what was asked for stays"


async def test_a_document_that_waits_is_not_learned_once_it_is_to_be_forgotten(queue: JobQueue, orders: Orders) -> None:
    [job] = await queue.accept(NS, [NewDocument("doc", "text", "sha")])
    forgetting = await orders.forget(NS, "doc", exact=False)
    assert (await queue.read(job.job_id)).status == "cancelled"
    claim = await queue.claim({NS: 1}, "learner", 0.01)
    assert claim is None or claim.job.job_id == forgetting.job_id


async def test_a_text_that_is_posted_again_meanwhile_is_a_new_document(queue: JobQueue, orders: Orders, client: Client) -> None:
    [before] = await queue.accept(NS, [NewDocument("doc", "text", "sha")])
    await orders.forget(NS, "doc", exact=False)
    [after] = await queue.accept(NS, [NewDocument("doc", "text", "sha")])
    assert after.job_id != before.job_id
    assert await client.hget(keys.document(NS, "doc"), "forgetting") is None
    assert (await client.hget(keys.document(NS, "doc"), "jobs") or "").split() == [before.job_id, after.job_id]


async def test_what_is_not_to_be_forgotten_after_all_is_a_document_as_before(
    queue: JobQueue, orders: Orders, client: Client
) -> None:
    claim = await claimed(queue)
    await queue.end(claim, "succeeded")
    forgetting = await orders.forget(NS, "doc", exact=False)
    assert (await queue.cancel(forgetting.job_id)).status == "cancelled"
    assert await client.hget(keys.document(NS, "doc"), "forgetting") is None
    [again] = await queue.accept(NS, [NewDocument("doc", "text of doc", "doc", {"by": "me"})])
    assert (again.job_id, again.status) == (claim.job.job_id, "succeeded"), "it is not learned a second time"
    assert (await orders.forget(NS, "doc", exact=False)).job_id != forgetting.job_id


async def test_a_full_queue_takes_no_job_that_forgets(client: Client) -> None:
    small = JobQueue(client, max_depth=1)
    await small.accept(NS, [NewDocument("doc", "text", "sha")])
    with pytest.raises(QueueFull):
        await Orders(client, small, 1).forget(NS, "doc", exact=False)
