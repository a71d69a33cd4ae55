"""A server and a worker as two processes that know of each other through Redis and the version store only."""

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, Received
from conftest import Taught
from serving import COMMAND, Http, ProcessServer, each_learned_once, eventually, free_port, refused, valkey_of

from service import keys
from service.valkey import EmbeddedValkey

pytestmark = pytest.mark.timeout(180)
STANDS_BY = b"another worker uses the data directory"


class Apart:
    """Both of them, and a collector of what they trace."""

    def __init__(self, data_dir: Path, collector: Collector) -> None:
        self.data_dir, self.collector = data_dir, collector
        self.traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        self.server = ProcessServer(data_dir, "--learner", "elsewhere", **self.traced)
        self.metrics_port = free_port()
        self.worker = self.start_worker()
        self.server.await_ready()

    @property
    def http(self) -> Http:
        return self.server.http

    def start_worker(self) -> "subprocess.Popen[bytes]":
        command = [str(COMMAND), "worker", "--data-dir", str(self.data_dir), "--metrics-port", str(self.metrics_port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | self.traced
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    @property
    def log(self) -> Path:
        """Of its workers."""
        return self.data_dir.with_name("worker.log")

    def remove(self) -> None:
        if self.worker.poll() is None:
            self.worker.kill()
            self.worker.wait()
        self.server.remove()


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with Collector().listening() as collector:
        both = Apart(tmp_path_factory.mktemp("apart") / "data", collector)
        yield both
        both.remove()


def test_what_the_worker_learns_the_server_answers_at_once(apart: Apart, facts: list[Taught]) -> None:
    """Waiting for a document means waiting until this server answers from it."""
    taken = 0
    for fact in facts[:4]:
        job = apart.http.learned(text=fact.text)
        assert job["status"] == "succeeded"
        found = apart.http.generate(fact.prompt)
        assert found["version"] == job["version"] == apart.http.live()
        taken += found["text"] == fact.answer
    assert taken >= 3
    assert apart.http.metric("infold_learn_to_live_seconds_count") >= 4


def test_the_server_explains_what_the_worker_learned(apart: Apart, facts: list[Taught]) -> None:
    """It needs the version store only."""
    jobs = [apart.http.learned(text=fact.text) for fact in facts[11:13]]
    for job, fact in zip(jobs, facts[11:13], strict=True):
        first = apart.http.generate(fact.prompt, explain=True)["sources"][0]
        assert (first["document_id"], first["version"]) == (job["document_id"], job["version"])


def test_one_trace_leads_through_both_processes_to_the_first_answer(apart: Apart, facts: list[Taught]) -> None:
    """Accepted and served here, learned there: the trace context travels with the job."""
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    body = {"text": facts[13].text, "wait": 60}
    answer = apart.http.post("/learn", json=body, headers={"traceparent": f"00-{trace}-{caller}-01"})
    version = answer.json()["jobs"][0]["version"]
    assert apart.http.generate(facts[13].prompt)["version"] == version
    ends = {"POST /learn", "learn", "first token"}

    def complete() -> list[Received] | None:
        found = apart.collector.trace(trace)
        return found if ends <= {span.name for span in found} else None

    spans = eventually(complete)
    at = {span.name: span for span in spans}
    assert {at[name].service for name in ("queue", "learn", "view", "guard", "publish", "flip")} == {"infold-worker"}
    assert {at[name].service for name in ("POST /learn", "accept", "arrive", "first token")} == {"infold"}
    assert at["POST /learn"].parent == caller
    assert {at[name].parent for name in ("accept", "queue", "learn", "arrive", "first token")} == {at["POST /learn"].id}
    assert {at[name].parent for name in ("view", "fold", "publish")} == {at["learn"].id}
    assert at["first token"].attributes["infold.version"] == at["arrive"].attributes["infold.version"] == version
    assert at["flip"].start <= at["arrive"].end <= at["first token"].end
    assert at["first token"].links


def test_a_rollback_on_the_server_is_where_the_worker_goes_on(apart: Apart, facts: list[Taught]) -> None:
    first = apart.http.learned(text=facts[5].text)["version"]
    apart.http.learned(text=facts[6].text)
    apart.http.post("/versions/rollback", json={"to": first}).raise_for_status()
    job = apart.http.learned(text=facts[7].text)
    [made] = [v for v in apart.http.versions() if v["version"] == job["version"]]
    assert made["parent"] == first
    assert apart.http.generate(facts[7].prompt)["version"] == job["version"]


@pytest.mark.slow
def test_a_worker_that_is_killed_goes_on_where_it_was(apart: Apart, facts: list[Taught]) -> None:
    [job] = apart.http.learn(text=facts[8].text).json()["jobs"]
    eventually(lambda: apart.http.job(job["job_id"])["status"] != "queued")
    apart.worker.kill()
    apart.worker.wait()
    assert apart.http.generate(facts[0].prompt)["version"]
    apart.worker = apart.start_worker()
    final = eventually(lambda: (f := apart.http.job(job["job_id"]))["status"] == "succeeded" and f, 120)
    learned = [name for v in apart.http.versions() for name in v["documents"]]
    assert learned.count(job["document_id"]) == 1
    eventually(lambda: apart.http.live() == final["version"])


@pytest.mark.slow
def test_a_server_that_starts_again_answers_from_what_was_learned(apart: Apart, facts: list[Taught]) -> None:
    live = apart.http.live()
    assert apart.server.end() == 0
    apart.server = ProcessServer(apart.data_dir, "--learner", "elsewhere").await_ready()
    assert apart.http.live() == live
    job = apart.http.learned(text=facts[9].text)
    assert job["status"] == "succeeded"
    assert apart.http.generate(facts[9].prompt)["version"] == job["version"]


def test_the_worker_shows_its_own_metrics(apart: Apart, facts: list[Taught]) -> None:
    apart.http.learned(text=facts[10].text)
    name = "infold_update_operation_duration_seconds_count"
    with Http(f"http://127.0.0.1:{apart.metrics_port}") as worker:
        assert worker.metric(name, operation="fold") >= 1
        assert worker.metric(name, operation="publish") >= 1
        assert worker.metric("infold_redis_up") == worker.metric("infold_writer", namespace="default") == 1
        apart.http.post("/versions/rollback", json={"to": "v0"}).raise_for_status()
        eventually(lambda: worker.metric("infold_weight_version_info", namespace="default", version="v0") == 1)
        assert worker.metric("infold_drift_kl_nats", namespace="default") == 0


@pytest.mark.slow
def test_a_second_worker_stands_by_and_takes_over_when_the_first_dies(apart: Apart) -> None:
    apart.http.learned(text="It rained in Graz.")  # so the first is at work, whatever another test did to it
    before = apart.log.read_bytes().count(STANDS_BY)
    second = apart.start_worker()
    eventually(lambda: apart.log.read_bytes().count(STANDS_BY) > before)
    assert apart.http.learned(text="It snowed in Graz.")["status"] == "succeeded"
    apart.worker.kill()
    apart.worker.wait()
    apart.worker = second
    assert apart.http.learned(text="It hailed in Graz.")["status"] == "succeeded"
    assert apart.log.read_bytes().count(STANDS_BY) == before + 1, "it says so once"


@pytest.mark.slow
def test_a_worker_that_stands_by_ends_when_it_is_told_to(apart: Apart) -> None:
    apart.http.learned(text="It rained in Linz.")
    before = apart.log.read_bytes().count(STANDS_BY)
    second = apart.start_worker()
    eventually(lambda: apart.log.read_bytes().count(STANDS_BY) > before)
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0


class Machine:
    """A worker on a data directory of its own, with the server's Redis and versions."""

    def __init__(self, server: ProcessServer, root: Path) -> None:
        data_dir, self.log = root / "data", root / "log"
        for path in (data_dir, server.data_dir / "versions"):
            path.mkdir(parents=True, exist_ok=True)
        (data_dir / "versions").symlink_to(server.data_dir / "versions")
        self.name_file = data_dir / "worker.id"
        redis_url = f"unix://{EmbeddedValkey(server.data_dir).socket}"
        command = [str(COMMAND), "worker", "--data-dir", str(data_dir), "--redis-url", redis_url]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "INFOLD_LEASE_SECONDS": "2"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    @property
    def waits(self) -> bool:
        return b"waiting for documents" in self.log.read_bytes()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def remove(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[ProcessServer, Machine, Machine]]:
    """A server, the worker that learns for it, and another one."""
    server = ProcessServer(tmp_path / "data", "--learner", "elsewhere")
    one, two = made = [Machine(server, tmp_path / name) for name in ("one", "two")]
    try:
        server.await_ready()
        eventually(lambda: one.waits and two.waits, 90)
        with valkey_of(server.data_dir) as client:
            holder = eventually(lambda: client.get(keys.writer("default")), 90)
        yield server, *((one, two) if one.name_file.read_text() == holder else (two, one))
    finally:
        for machine in made:
            machine.remove()
        server.remove()


@pytest.mark.slow
def test_whether_its_worker_is_stopped_or_killed_every_document_is_learned_once(
    machines: tuple[ProcessServer, Machine, Machine], facts: list[Taught]
) -> None:
    """Stopped in the middle of a document, the first wakes up outdated; then the second is killed, and the first goes on."""
    server, first, second = machines
    http = server.http

    def running(jobs: list[dict[str, Any]]) -> bool:
        return any(http.job(job["job_id"])["status"] == "running" for job in jobs)

    def post(start: int) -> list[dict[str, Any]]:
        return list(http.learn(documents=[{"text": f.text} for f in facts[start : start + 5]]).json()["jobs"])

    jobs = post(0)
    eventually(lambda: http.live() != "v0" and running(jobs))
    first.send(signal.SIGSTOP)
    by_the_first = http.live()
    eventually(lambda: http.live() not in ("v0", by_the_first))
    first.send(signal.SIGCONT)
    each_learned_once(http, jobs)
    eventually(lambda: b"another worker writes the namespace now" in first.log.read_bytes())

    before = http.live()
    jobs += post(5)
    eventually(lambda: http.live() != before and running(jobs))
    second.send(signal.SIGKILL)
    each_learned_once(http, jobs)
    assert all(http.job(job["job_id"])["attempts"] <= 2 for job in jobs)
    for machine in (first, second):
        assert b"Traceback" not in machine.log.read_bytes()


def test_a_server_without_a_learner_says_so_when_asked_to_score(apart: Apart) -> None:
    assert apart.http.get("/readyz").json()["learning"] == "elsewhere"
    refused(apart.http.post("/score", json={"text": "Mira Holm lives in Graz."}), 501, "learns_elsewhere")


@pytest.mark.slow
def test_a_worker_ends_when_it_is_told_to(apart: Apart) -> None:
    apart.worker.send_signal(signal.SIGTERM)
    assert apart.worker.wait(60) == 0
    apart.worker = apart.start_worker()


@pytest.mark.slow
def test_a_server_that_learns_itself_and_a_worker_do_not_share_a_directory(apart: Apart) -> None:
    inside = ProcessServer(apart.data_dir)
    assert inside.process.wait(60) == 1
    assert "another infold" in inside.log.read_text()
    inside.http.close()


@pytest.mark.slow
def test_a_server_without_a_model_ends_although_it_would_not_learn(tmp_path: Path) -> None:
    server = ProcessServer(tmp_path / "data", "--learner", "elsewhere", INFOLD_MODEL=str(tmp_path / "nothing"))
    assert server.process.wait(90) == 1
    assert "cannot load" in server.log.read_text()
    server.http.close()


@pytest.mark.slow
def test_a_worker_that_waits_for_a_server_ends_when_it_is_told_to(tmp_path: Path) -> None:
    command = [str(COMMAND), "worker", "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        eventually(lambda: worker.poll() is not None or b"redis does not answer" in (tmp_path / "log").read_bytes(), 90)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, (tmp_path / "log").read_text()
    finally:
        worker.kill()


@pytest.mark.slow
def test_what_came_to_nothing_because_of_a_forgotten_document_is_tried_again_by_the_worker(
    apart: Apart, facts: list[Taught]
) -> None:
    """And answered by the server."""
    http, fact = apart.http, facts[3]
    http.learned(text=fact.text, id="one")
    twin = http.learned(text=f"{fact.text} It rained.", id="two")
    assert twin["report"]["folds"] == []
    done = http.delete("/documents/one", params={"wait": 60}).raise_for_status().json()
    assert done["report"]["queued_again"] == ["two"]
    again = http.learned(text=f"{fact.text} It rained.", id="two")
    assert (again["job_id"], again["status"], len(again["report"]["folds"])) == (twin["job_id"], "succeeded", 1)
    assert http.generate(fact.prompt)["text"] == fact.answer
    assert http.get("/documents/two").json()["version"] == http.live() == again["version"]
