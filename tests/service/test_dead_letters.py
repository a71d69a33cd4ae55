"""Jobs that were given up: seen, tried again as if never tried, or let go; in Redis, through HTTP, from the command line."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result
from serving import ThreadServer, events, refused, serving
from typer.testing import CliRunner

from service import keys
from service.cli import app
from service.connection import Client, connect
from service.dead_letters import DeadLetters
from service.errors import NotADeadLetter, QueueFull, Superseded, UnknownJob
from service.job import Claim, Job, NewDocument
from service.lease import Lease
from service.metrics import Metrics
from service.orders import Orders
from service.queue import JobQueue
from service.settings import Settings

NS = "default"
NO_JOB = "job-" + 20 * "0"


class Bench:
    """A queue of three, its dead letters, and a worker that learns nothing."""

    def __init__(self, client: Client, namespace: str = NS) -> None:
        self.client, self.namespace = client, namespace
        self.queue = JobQueue(client, max_depth=3)
        self.letters = DeadLetters(client, self.queue, max_depth=3)
        self.lease = Lease(client, [namespace], "worker", 60, Metrics())

    async def post(self, name: str, text: str = "text") -> Job:
        await self.queue.prepare([self.namespace])
        [job] = await self.queue.accept(self.namespace, [NewDocument(name, text, text)])
        return job

    async def claim(self) -> Claim:
        await self.lease.take()
        claim = await self.queue.claim(self.lease.tokens, "learner", 0.01)
        assert claim is not None
        return claim

    async def buried(self, name: str = "doc", error: str = "it broke") -> Job:
        job = await self.post(name)
        await self.queue.bury(await self.claim(), error)
        return job

    async def followed(self, job: Job, after: str = "0") -> list[tuple[str, str]]:
        found = self.queue.follow(job.job_id, after, 0.01)
        return [(event[0], event[1]["status"]) async for event in found if event is not None]


@pytest.fixture
def bench(client: Client) -> Bench:
    return Bench(client)


@pytest.mark.anyio
class TestInRedis:
    async def test_they_are_listed_newest_first_with_why_and_how_often(self, bench: Bench) -> None:
        jobs = [await bench.buried(f"doc-{n}", f"reason {n}") for n in range(3)]
        found, total = await bench.letters.list(NS, 2)
        assert [(f.job_id, f.document_id, f.namespace, f.error, f.attempts) for f in found] == [
            (jobs[n].job_id, f"doc-{n}", NS, f"reason {n}", 1) for n in (2, 1)
        ]
        assert total == 3
        assert found[0].buried_at >= found[1].buried_at > jobs[0].accepted_at - 1
        assert await bench.letters.list("other", 5) == ([], 0)

    async def test_burying_twice_makes_one(self, bench: Bench) -> None:
        await bench.post("doc")
        claim = await bench.claim()
        assert await bench.queue.bury(claim, "first") == "failed"
        assert await bench.queue.bury(claim, "second") == "failed"
        [letter], total = await bench.letters.list(NS, 5)
        assert (letter.error, total) == ("first", 1)

    async def test_what_has_ended_otherwise_is_not_buried_but_taken_out_of_the_queue(self, bench: Bench) -> None:
        job = await bench.post("doc")
        claim = await bench.claim()
        await bench.queue.end(claim, "succeeded", version="v1")
        assert await bench.queue.bury(claim, "late") == "succeeded"
        ended = await bench.queue.read(job.job_id)
        assert (ended.status, ended.error) == ("succeeded", None)
        assert await bench.letters.list(NS, 5) == ([], 0)
        assert await bench.queue.depth(NS) == 0

    async def test_a_late_repetition_does_not_bury_what_was_retried_meanwhile(self, bench: Bench) -> None:
        """The answer to burying may be lost, and the operator quicker than the worker."""
        job = await bench.post("doc")
        claim = await bench.claim()
        await bench.queue.bury(claim, "it broke")
        await bench.letters.retry(job.job_id)
        assert await bench.queue.bury(claim, "it broke") == "queued"
        assert (await bench.claim()).job.job_id == job.job_id

    async def test_a_retried_one_is_as_if_it_had_never_been_tried(self, bench: Bench) -> None:
        job = await bench.buried()
        assert await bench.letters.retry(job.job_id) == job
        assert await bench.letters.list(NS, 5) == ([], 0)
        claim = await bench.claim()
        assert (claim.job.job_id, claim.job.attempts) == (job.job_id, 1)
        await bench.queue.end(claim, "succeeded", version="v1")
        assert (await bench.queue.read(job.job_id)).error is None

    async def test_one_that_fails_again_is_among_them_again(self, bench: Bench) -> None:
        job = await bench.buried(error="first")
        await bench.letters.retry(job.job_id)
        await bench.queue.bury(await bench.claim(), "second")
        [letter], total = await bench.letters.list(NS, 5)
        assert (letter.job_id, letter.error, letter.attempts, total) == (job.job_id, "second", 1, 1)

    async def test_it_is_retried_once(self, bench: Bench) -> None:
        job = await bench.buried()
        answers = await asyncio.gather(*[bench.letters.retry(job.job_id) for _ in range(5)], return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Job", *4 * ["NotADeadLetter"]]
        assert await bench.queue.depth(NS) == 1

    async def test_a_follower_sees_it_go_on(self, bench: Bench) -> None:
        job = await bench.buried()
        seen = await bench.followed(job)
        assert [status for _, status in seen] == ["queued", "running", "failed"]
        assert await bench.client.ttl(keys.events(job.job_id)) > 0
        await bench.letters.retry(job.job_id)
        assert await bench.client.ttl(keys.events(job.job_id)) == -1
        following = [asyncio.create_task(bench.followed(job, after)) for after in ("0", seen[-1][0])]
        claim = await bench.claim()
        await bench.queue.end(claim, "succeeded", version="v1")
        whole, rest = [[status for _, status in found] for found in await asyncio.wait_for(asyncio.gather(*following), 30)]
        assert whole == ["queued", "running", "failed", "queued", "running", "succeeded"]
        assert rest == whole[3:]
        assert await bench.client.ttl(keys.events(job.job_id)) > 0

    async def test_it_can_be_followed_although_what_happened_before_is_forgotten(self, bench: Bench) -> None:
        job = await bench.buried()
        seen = await bench.followed(job)
        await bench.client.delete(keys.events(job.job_id))  # as after an hour
        await bench.letters.retry(job.job_id)
        await bench.queue.end(await bench.claim(), "succeeded", version="v1")
        assert [status for _, status in await bench.followed(job, seen[-1][0])] == ["queued", "running", "succeeded"]

    async def test_a_document_whose_text_was_replaced_is_not_relearned_through_the_old_job(self, bench: Bench) -> None:
        job = await bench.buried()
        later = await bench.post("doc", "another text")
        with pytest.raises(Superseded, match=later.job_id):
            await bench.letters.retry(job.job_id)
        assert (await bench.queue.read(job.job_id)).status == "failed"
        assert (await bench.letters.list(NS, 5))[1] == 1
        assert (await bench.letters.drop(job.job_id)).status == "failed"
        assert (await bench.letters.list(NS, 5))[1] == 0

    async def test_one_that_was_retried_is_the_job_of_the_same_text_posted_again(self, bench: Bench) -> None:
        job = await bench.buried()
        await bench.letters.retry(job.job_id)
        assert (await bench.post("doc")).job_id == job.job_id

    async def test_a_dropped_one_stays_failed_and_cannot_be_retried(self, bench: Bench) -> None:
        job = await bench.buried()
        dropped = await bench.letters.drop(job.job_id)
        assert (dropped.status, dropped.error) == ("failed", "it broke")
        assert await bench.letters.list(NS, 5) == ([], 0)
        for change in (bench.letters.retry, bench.letters.drop):
            with pytest.raises(NotADeadLetter, match="failed"):
                await change(job.job_id)

    async def test_what_waits_is_not_one_and_what_never_was_is_unknown(self, bench: Bench) -> None:
        job = await bench.post("doc")
        for change in (bench.letters.retry, bench.letters.drop):
            with pytest.raises(NotADeadLetter, match="queued"):
                await change(job.job_id)
            with pytest.raises(UnknownJob):
                await change(NO_JOB)

    async def test_taking_a_document_back_is_tried_again_unless_it_is_a_new_document_by_now(self, bench: Bench) -> None:
        orders = Orders(bench.client, bench.queue, 3)
        await bench.post("doc")
        await bench.queue.end(await bench.claim(), "succeeded")
        job = await orders.forget(NS, "doc", exact=True)
        await bench.queue.bury(await bench.claim(), "it broke")
        tried = await bench.letters.retry(job.job_id)
        assert (tried.status, tried.kind, tried.exact, tried.error) == ("queued", "forget", True, None)
        await bench.queue.bury(await bench.claim(), "it broke again")
        await bench.post("doc")
        with pytest.raises(Superseded):
            await bench.letters.retry(job.job_id)

    async def test_a_full_queue_takes_none_back(self, bench: Bench) -> None:
        job = await bench.buried()
        for n in range(3):
            await bench.post(f"doc-{n}")
        with pytest.raises(QueueFull):
            await bench.letters.retry(job.job_id)
        assert (await bench.letters.list(NS, 5))[1] == 1


class Quiet:
    """A server whose worker is the test."""

    def __init__(self, server: ThreadServer, namespace: str) -> None:
        self.server, self.http, self.namespace = server, server.http, namespace

    def post(self, name: str) -> dict[str, Any]:
        [job] = self.http.learn(text="It rained.", id=name, namespace=self.namespace).json()["jobs"]
        return self.http.job(job["job_id"])

    def work(self, do: Callable[[Bench], Any]) -> None:
        async def run() -> None:
            client = connect(self.server.runtime._valkey.url)  # type: ignore[union-attr]
            bench = Bench(client, self.namespace)
            await do(bench)
            await bench.lease.give_back()
            await client.aclose()

        asyncio.run(run())

    def buried(self, name: str = "doc", error: str = "it broke") -> str:
        job = self.post(name)

        async def bury(bench: Bench) -> None:
            await bench.queue.bury(await bench.claim(), error)

        self.work(bury)
        return str(job["job_id"])

    def listed(self, **query: Any) -> dict[str, Any]:
        found = self.http.get("/dead-letters", params={"namespace": self.namespace, **query})
        return dict(found.raise_for_status().json())

    def run(self, *arguments: str) -> Result:
        full = ["dead-letters", *arguments, "--url", self.server.url, "--namespace", self.namespace]
        return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, full)


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]) -> Iterator[ThreadServer]:
    names = tuple(f"quiet-{n}" for n in range(20))
    with serving(settings_for(tmp_path_factory.mktemp("quiet"), learner="elsewhere", namespaces=names)) as started:
        yield started


_fresh = itertools.count()


@pytest.fixture
def quiet(quiet_server: ThreadServer) -> Quiet:
    return Quiet(quiet_server, quiet_server.settings.namespaces[next(_fresh)])


def test_http_tells_of_them(quiet: Quiet) -> None:
    jobs = [quiet.buried(f"doc-{n}") for n in range(3)]
    answer = quiet.listed(limit=2)
    assert answer["total"] == 3
    assert [letter["job_id"] for letter in answer["dead_letters"]] == [jobs[2], jobs[1]]
    letter = answer["dead_letters"][0]
    assert letter == {
        "job_id": jobs[2],
        "document_id": "doc-2",
        "namespace": quiet.namespace,
        "error": "it broke",
        "attempts": 1,
        "buried_at": letter["buried_at"],
    }
    assert quiet.http.job(jobs[2])["finished_at"] == pytest.approx(letter["buried_at"], abs=1)
    assert quiet.http.metric("infold_dead_letters", namespace=quiet.namespace) == 3


def test_http_retries_one_and_its_events_go_on(quiet: Quiet) -> None:
    job = quiet.buried()
    answer = quiet.http.post(f"/dead-letters/{job}/retry")
    assert answer.status_code == 200
    assert answer.json() == quiet.http.job(job)
    told = answer.json()
    assert (told["status"], told["attempts"], told["error"], told["finished_at"]) == ("queued", 0, None, None)
    assert quiet.listed()["total"] == 0
    with quiet.http.stream("GET", f"/learn/{job}/events") as stream:
        seen = (json.loads(event["data"])["status"] for event in events(stream.iter_lines()) if "data" in event)
        assert list(itertools.islice(seen, 4)) == ["queued", "running", "failed", "queued"]

        async def finish(bench: Bench) -> None:
            await bench.queue.end(await bench.claim(), "succeeded", version="v0")

        quiet.work(finish)
        assert list(seen) == ["running", "succeeded"]


def test_http_drops_one(quiet: Quiet) -> None:
    job = quiet.buried()
    answer = quiet.http.delete(f"/dead-letters/{job}")
    assert (answer.status_code, answer.json()) == (200, quiet.http.job(job))
    assert (answer.json()["status"], answer.json()["error"]) == ("failed", "it broke")
    assert quiet.listed()["total"] == 0


def test_http_refuses_what_is_none(quiet: Quiet) -> None:
    waiting = quiet.post("waits")["job_id"]
    for job, status, code in ((waiting, 409, "not_a_dead_letter"), (NO_JOB, 404, "unknown_job"), ("nonsense", 404, "unknown_job")):
        refused(quiet.http.post(f"/dead-letters/{job}/retry"), status, code)
        refused(quiet.http.delete(f"/dead-letters/{job}"), status, code)
    refused(quiet.http.get("/dead-letters", params={"namespace": "nowhere"}), 404, "unknown_namespace")
    refused(quiet.http.get("/dead-letters", params={"limit": 0}), 400)


def test_http_refuses_a_document_whose_text_was_replaced(quiet: Quiet) -> None:
    job = quiet.buried()
    quiet.http.learn(text="It snowed.", id="doc", namespace=quiet.namespace).raise_for_status()
    error = refused(quiet.http.post(f"/dead-letters/{job}/retry"), 409, "superseded")
    assert "came after it" in error["message"]


def test_the_command_lists_them(quiet: Quiet) -> None:
    jobs = [quiet.buried(f"doc-{n}", "[/red] broke") for n in range(2)]
    shown = quiet.run("list")
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in (*jobs, "doc-0", "doc-1", "[/red]", "broke"))
    assert "1 more" in quiet.run("list", "--limit", "1").stderr
    assert json.loads(quiet.run("list", "--json").stdout) == quiet.listed()["dead_letters"]


def test_the_command_retries_and_drops_what_is_named(quiet: Quiet) -> None:
    one, two = quiet.buried("one"), quiet.buried("two")
    retried = quiet.run("retry", one)
    assert (retried.exit_code, retried.stdout) == (0, f"{one}: queued\n")
    dropped = quiet.run("drop", two, "--json")
    assert dropped.exit_code == 0
    assert json.loads(dropped.stdout) == quiet.http.job(two)
    assert quiet.listed()["total"] == 0


@pytest.mark.parametrize(("command", "status"), [("retry", "queued"), ("drop", "failed")])
def test_the_command_takes_all_of_a_namespace(quiet: Quiet, command: str, status: str) -> None:
    jobs = [quiet.buried(f"doc-{n}") for n in range(3)]
    done = quiet.run(command, "--all")
    assert done.exit_code == 0, done.output
    assert sorted(done.stdout.splitlines()) == sorted(f"{job}: {status}" for job in jobs)
    assert (quiet.listed()["total"], quiet.run(command, "--all").exit_code) == (0, 0)


def test_one_that_is_refused_does_not_keep_the_others(quiet: Quiet) -> None:
    one, two = quiet.buried("one"), quiet.buried("two")
    quiet.http.learn(text="It snowed.", id="two", namespace=quiet.namespace).raise_for_status()
    done = quiet.run("retry", "--all")
    assert (done.exit_code, done.stdout) == (1, f"{one}: queued\n")
    assert done.stderr.startswith("error: 409: ")
    assert two in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_the_command_wants_either_jobs_or_all(quiet: Quiet, command: str) -> None:
    assert quiet.run(command).exit_code == 2
    assert quiet.run(command, NO_JOB, "--all").exit_code == 2
    missing = quiet.run(command, "../" + NO_JOB)
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: 404")
