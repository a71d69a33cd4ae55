"""Jobs on a real Valkey: accepted once, claimed once, ended once, and never lost."""

import asyncio
import json
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from service import keys
from service.connection import Client, connect
from service.errors import KeyReused, NotCancellable, QueueFull, UnknownJob
from service.job import FINAL, Claim, Job, NewDocument
from service.lease import Lease
from service.metrics import Metrics
from service.queue import JobQueue
from service.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio
NS = "default"
TOKENS = {NS: 1, "other": 1}
"""Of the first worker."""
SOON = 0.01
"""Seconds that a claim of an empty queue waits."""


def document(name: str, text: str = "", **metadata: Any) -> NewDocument:
    return NewDocument(name, text or f"text of {name}", f"sha of {text or name}", metadata)


@pytest.fixture
async def queue(client: Client) -> JobQueue:
    queue = JobQueue(client, max_depth=5)
    await queue.prepare([NS, "other"])
    await Lease(client, list(TOKENS), "worker", 60, Metrics()).take()
    return queue


async def claim(queue: JobQueue, *namespaces: str) -> Claim:
    """The next job, after whatever has ended and is only cleared away."""
    found = None
    while found is None:
        assert await queue.depth(NS) + await queue.depth("other")
        found = await queue.claim({n: TOKENS[n] for n in namespaces or [NS]}, "learner", SOON)
    return found


async def finish(queue: JobQueue, claimed: Claim, status: str = "succeeded") -> None:
    await queue.end(claimed, status)
    await queue.acknowledge(claimed)


async def events(queue: JobQueue, job: Job, after: str = "0") -> list[tuple[str, dict[str, str]]]:
    return [event async for event in queue.follow(job.job_id, after, SOON) if event is not None]


async def test_jobs_are_claimed_in_the_order_of_acceptance(queue: JobQueue) -> None:
    accepted = await queue.accept(NS, [document("a"), document("b"), document("c")])
    for job in accepted:
        claimed = await claim(queue)
        assert claimed.job.job_id == job.job_id
        await finish(queue, claimed)
    assert await queue.claim({NS: 1}, "learner", SOON) is None


async def test_preparing_again_keeps_what_is_there(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    await queue.prepare([NS])
    assert (await claim(queue)).job.job_id == job.job_id


async def test_the_same_document_again_is_the_same_job_whatever_became_of_it(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    assert [again.job_id for again in await queue.accept(NS, [document("a"), document("a")])] == [job.job_id] * 2
    claimed = await claim(queue)
    assert [again.status for again in await queue.accept(NS, [document("a")])] == ["running"]
    await finish(queue, claimed)
    assert [again.status for again in await queue.accept(NS, [document("a")])] == ["succeeded"]
    assert await queue.depth(NS) == 0


async def test_new_metadata_of_a_text_that_is_there_are_noted_and_none_change_nothing(queue: JobQueue, client: Client) -> None:
    async def noted() -> Any:
        return json.loads((await client.hget(keys.document(NS, "a"), "metadata")) or "")

    [job] = await queue.accept(NS, [document("a", by="me")])
    assert (await queue.accept(NS, [document("a")]))[0].job_id == job.job_id
    assert await noted() == {"by": "me"}
    assert (await queue.accept(NS, [document("a", by="you")]))[0].job_id == job.job_id
    assert await noted() == {"by": "you"}
    with pytest.raises(QueueFull):
        await queue.accept(NS, [document("a", by="them"), *map(document, "bcdef")])
    assert await noted() == {"by": "you"}, "all or nothing"


@pytest.mark.parametrize("status", ["failed", "cancelled", "rejected"])
async def test_a_document_whose_job_came_to_no_good_may_be_posted_again(queue: JobQueue, status: str) -> None:
    [job] = await queue.accept(NS, [document("a")])
    if status == "failed":
        await queue.bury(await claim(queue), "because")
    elif status == "rejected":
        claimed = await claim(queue)
        await queue.end(claimed, "rejected")
        await queue.acknowledge(claimed)
    else:
        await queue.cancel(job.job_id)
    [again] = await queue.accept(NS, [document("a")])
    assert again.job_id != job.job_id
    assert again.status == "queued"


async def test_a_document_that_is_left_behind_is_learned_again_once(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    await finish(queue, await claim(queue))
    [again, twice] = await queue.accept(NS, [document("a"), document("a")], left=["a"])
    assert again == twice
    assert (again.job_id != job.job_id, again.status) == (True, "queued")
    assert await queue.accept(NS, [document("a")], left=["a"]) == [again], "it waits already"


async def test_the_same_id_with_another_text_is_another_job_and_the_one_that_waited_ends(queue: JobQueue) -> None:
    [first] = await queue.accept(NS, [document("a", "one")])
    [second] = await queue.accept(NS, [document("a", "two")])
    assert first.job_id != second.job_id
    old = await queue.read(first.job_id)
    assert (old.status, old.error) == ("cancelled", f"superseded by {second.job_id}")
    assert (await claim(queue)).job.job_id == second.job_id


async def test_a_running_job_is_not_ended_by_another_text_for_its_document(queue: JobQueue) -> None:
    await queue.accept(NS, [document("a", "one")])
    running = await claim(queue)
    await queue.accept(NS, [document("a", "two")])
    assert (await queue.read(running.job.job_id)).status == "running"


async def test_of_two_texts_for_one_id_in_one_request_the_last_is_learned(queue: JobQueue) -> None:
    first, second = await queue.accept(NS, [document("a", "one"), document("a", "two")])
    assert (first.status, second.status) == ("cancelled", "queued")


async def test_the_same_id_in_another_namespace_is_another_document(queue: JobQueue) -> None:
    [one] = await queue.accept(NS, [document("a")])
    [other] = await queue.accept("other", [document("a")])
    assert one.job_id != other.job_id
    assert other.namespace == "other"


async def test_a_key_answers_its_body_with_the_same_jobs_and_refuses_another(queue: JobQueue) -> None:
    first = await queue.accept(NS, [document("a")], ("key", "body"))
    again = await queue.accept(NS, [document("b")], ("key", "body"))
    assert [job.job_id for job in again] == [job.job_id for job in first]
    with pytest.raises(KeyReused):
        await queue.accept(NS, [document("a")], ("key", "other body"))
    assert await queue.depth(NS) == 1


async def test_a_key_belongs_to_its_namespace_and_is_forgotten_after_a_day(queue: JobQueue, client: Client) -> None:
    await queue.accept(NS, [document("a")], ("key", "body"))
    await queue.accept("other", [document("a")], ("key", "other body"))
    assert 0 < await client.ttl(keys.idempotency(NS, "key")) <= 86_400


async def test_of_a_batch_that_does_not_fit_nothing_is_queued(queue: JobQueue) -> None:
    await queue.accept(NS, [document(name) for name in "abc"])
    with pytest.raises(QueueFull) as caught:
        await queue.accept(NS, [document(name) for name in "def"])
    assert caught.value.retry_after
    assert await queue.depth(NS) == 3
    await queue.accept(NS, [document(name) for name in "abcde"])
    assert await queue.depth(NS) == 5


async def test_a_refused_batch_does_not_use_up_its_key(queue: JobQueue) -> None:
    await queue.accept(NS, [document(name) for name in "abcde"])
    with pytest.raises(QueueFull):
        await queue.accept(NS, [document("f")], ("key", "body"))
    await finish(queue, await claim(queue))
    [job] = await queue.accept(NS, [document("f")], ("key", "body"))
    assert job.status == "queued"


async def test_a_full_queue_still_knows_what_it_has(queue: JobQueue) -> None:
    jobs = await queue.accept(NS, [document(name) for name in "abcde"])
    assert await queue.accept(NS, [document("c")]) == [jobs[2]]


async def test_what_was_claimed_and_not_acknowledged_is_claimed_again_first(queue: JobQueue, client: Client) -> None:
    held, _ = await queue.accept(NS, [document("a"), document("b")])
    assert (await claim(queue)).job.job_id == held.job_id
    restarted = JobQueue(client, max_depth=5)
    again = await claim(restarted)
    assert (again.job.job_id, again.job.attempts, again.job.status) == (held.job_id, 2, "running")


async def test_what_ended_and_was_not_acknowledged_is_not_claimed_again(queue: JobQueue, client: Client) -> None:
    await queue.accept(NS, [document("a")])
    await queue.end(await claim(queue), "succeeded")
    restarted = JobQueue(client, max_depth=5)
    assert await restarted.claim({NS: 1}, "learner", SOON) is None
    assert await restarted.depth(NS) == 0


async def test_jobs_of_several_namespaces_are_all_claimed(queue: JobQueue) -> None:
    jobs = [*await queue.accept(NS, [document("a"), document("b")]), *await queue.accept("other", [document("c")])]
    found = []
    for _ in jobs:
        claimed = await claim(queue, NS, "other")
        found.append(claimed.job.job_id)
        await finish(queue, claimed)
    assert sorted(found) == sorted(job.job_id for job in jobs)


async def test_a_queued_job_can_be_cancelled_and_is_then_not_claimed(queue: JobQueue) -> None:
    gone, kept = await queue.accept(NS, [document("a"), document("b")])
    assert (await queue.cancel(gone.job_id)).status == "cancelled"
    assert (await claim(queue)).job.job_id == kept.job_id
    assert await queue.depth(NS) == 1


async def test_a_job_that_runs_or_has_ended_cannot_be_cancelled(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    claimed = await claim(queue)
    for status in ("running", "succeeded"):
        with pytest.raises(NotCancellable, match=status):
            await queue.cancel(job.job_id)
        await queue.end(claimed, "succeeded")
    assert (await queue.read(job.job_id)).status == "succeeded"


async def test_a_job_ends_once(queue: JobQueue) -> None:
    await queue.accept(NS, [document("a")])
    claimed = await claim(queue)
    assert await queue.end(claimed, "rejected", report='{"a": 1}') == "rejected"
    assert await queue.end(claimed, "failed", error="late") == "rejected"
    job = await queue.read(claimed.job.job_id)
    assert (job.status, job.version, job.report, job.error) == ("rejected", None, {"a": 1}, None)
    assert [fields["status"] for _, fields in await events(queue, job)] == ["queued", "running", "rejected"]


async def test_a_job_given_up_is_among_the_dead_letters_with_its_error(queue: JobQueue, client: Client) -> None:
    [job] = await queue.accept(NS, [document("a")])
    await queue.bury(await claim(queue), "it broke")
    [(_, fields)] = await client.xrange(keys.dead(NS))
    assert fields == {"job": job.job_id, "document": "a", "attempts": "1", "error": "it broke"}
    assert await queue.dead_letters(NS) == 1
    assert await queue.depth(NS) == 0
    assert (await queue.read(job.job_id)).error == "it broke"


async def test_events_are_followed_while_they_happen_and_resumed(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    following = asyncio.create_task(events(queue, job))
    claimed = await claim(queue)
    await finish(queue, claimed)
    seen = await asyncio.wait_for(following, 20)
    assert [fields["status"] for _, fields in seen] == ["queued", "running", "succeeded"]
    assert await events(queue, job, after=seen[0][0]) == seen[1:]


async def test_there_is_nothing_to_wait_for_after_the_end(queue: JobQueue, client: Client) -> None:
    [job] = await queue.accept(NS, [document("a")])
    await finish(queue, await claim(queue))
    last = (await events(queue, job))[-1][0]
    assert await asyncio.wait_for(events(queue, job, after=last), 5) == []
    await client.delete(keys.events(job.job_id))  # as after an hour
    assert await asyncio.wait_for(events(queue, job), 5) == []


async def test_events_are_kept_for_an_hour_after_the_end(queue: JobQueue, client: Client) -> None:
    [job] = await queue.accept(NS, [document("a")])
    assert await client.ttl(keys.events(job.job_id)) == -1
    await finish(queue, await claim(queue))
    assert 0 < await client.ttl(keys.events(job.job_id)) <= 3600


async def test_silence_is_reported(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    found = queue.follow(job.job_id, block_seconds=SOON)
    assert (await anext(found) or ("", {}))[1] == {"status": "queued"}
    assert await anext(found) is None
    await found.aclose()  # type: ignore[attr-defined]


async def test_many_may_wait_for_one_job(queue: JobQueue) -> None:
    [job] = await queue.accept(NS, [document("a")])
    waiting = [asyncio.create_task(events(queue, job)) for _ in range(150)]
    await finish(queue, await claim(queue))
    assert all(len(seen) == 3 for seen in await asyncio.wait_for(asyncio.gather(*waiting), 60))


async def test_an_unknown_job_is_an_error(queue: JobQueue) -> None:
    for call in (queue.read, queue.cancel):
        for job_id in (f"job-{20 * '0'}", "job-none", ""):
            with pytest.raises(UnknownJob):
                await call(job_id)


async def test_texts_and_metadata_are_kept_as_they_are(queue: JobQueue, client: Client) -> None:
    text = 'quotes " and \\ and \u2028 and \U0001f980 and </script> \u00e9'
    await queue.accept(NS, [document("a", text, by="me", n=[1, {"x": None}])])
    fields = await client.hgetall(keys.document(NS, "a"))
    assert fields["text"] == text
    assert json.loads(fields["metadata"]) == {"by": "me", "n": [1, {"x": None}]}


async def test_the_age_of_the_oldest_job_is_measured(queue: JobQueue) -> None:
    assert await queue.oldest_age(NS) == 0
    await queue.accept(NS, [document("a")])
    assert 0 <= await queue.oldest_age(NS) < 60


async def test_lengths_are_those_of_each_namespace(queue: JobQueue) -> None:
    assert await queue.lengths([NS, "other"]) == [(0, 0, 0), (0, 0, 0)]
    await queue.accept("other", [document("a"), document("b")])
    await queue.bury(await claim(queue, "other"), "it broke")
    nothing, (depth, oldest, dead) = await queue.lengths([NS, "other"])
    assert nothing == (0, 0, 0)
    assert (depth, dead) == (1, 1)
    assert 0 <= oldest < 60


class Lifecycle(RuleBasedStateMachine):
    """Any order of accepting, claiming, crashing, ending and acknowledging: no job is lost, none is ended twice."""

    url = ""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.jobs: dict[str, str] = {}
        """Job -> document."""
        self.ended: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.held: Claim | None = None
        self.restart()
        self.runner.run(self.queue.prepare([NS, "other"]))
        self.runner.run(Lease(self.client, list(TOKENS), "worker", 60, Metrics()).take())

    def restart(self) -> None:
        self.client = self.runner.get_loop().run_until_complete(self._connect())
        self.queue = JobQueue(self.client, max_depth=6)
        self.held = None

    async def _connect(self) -> Client:
        return connect(self.url)

    @rule(name=st.sampled_from("abcdefgh"), namespace=st.sampled_from([NS, "other"]))
    def accept(self, name: str, namespace: str) -> None:
        try:
            [job] = self.runner.run(self.queue.accept(namespace, [document(name)]))
        except QueueFull:
            assert self.runner.run(self.queue.depth(namespace)) == 6
            return
        known = self.jobs.get(job.job_id)
        assert known in (None, f"{namespace} {name}")
        self.jobs[job.job_id] = f"{namespace} {name}"

    @precondition(lambda self: self.held is None)
    @rule()
    def claim(self) -> None:
        left = self.jobs.keys() - self.ended.keys()
        while self.held is None and self.runner.run(self._depth()):  # what has ended is cleared away on the way
            self.held = self.runner.run(self.queue.claim(TOKENS, "learner", SOON))
        assert (self.held.job.job_id in left) if self.held else not left

    async def _depth(self) -> int:
        return await self.queue.depth(NS) + await self.queue.depth("other")

    @precondition(lambda self: self.held is not None)
    @rule(status=st.sampled_from(sorted(FINAL - {"cancelled"})))
    def end(self, status: str) -> None:
        assert self.held is not None
        now = self.runner.run(self.queue.end(self.held, status))
        first = self.held.job.job_id not in self.ended
        assert not first or now == status
        self.ended[self.held.job.job_id] = 1

    @precondition(lambda self: self.held is not None and self.held.job.job_id in self.ended)
    @rule()
    def acknowledge(self) -> None:
        assert self.held is not None
        self.runner.run(self.queue.acknowledge(self.held))
        self.acknowledged.add(self.held.job.job_id)
        self.held = None

    @rule()
    def crash(self) -> None:
        self.runner.run(self.client.aclose())
        self.restart()

    @invariant()
    def every_job_that_has_not_ended_is_in_the_queue(self) -> None:
        left = len(self.jobs.keys() - self.ended.keys())
        assert left <= self.runner.run(self._depth()) <= len(self.jobs) - len(self.acknowledged)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.client.aclose())
            self.runner.close()


@pytest.fixture
def machine(embedded: EmbeddedValkey) -> type[Lifecycle]:
    Lifecycle.url = embedded.url
    return Lifecycle


def test_no_job_is_lost_or_ended_twice_in_any_order_of_events(machine: type[Lifecycle]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=12, stateful_step_count=20))
