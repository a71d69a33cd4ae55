"""Running servers for the tests: in a thread of this process, or as the installed command; and waiting for predicates."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import redis
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.app import create_app
from service.http_protocol import server_config
from service.job import FINAL
from service.runtime import Runtime
from service.settings import Settings
from service.valkey import EmbeddedValkey

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 60.0) -> T:
    """The first true result of `predicate`, asked again and again; an assertion error after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if result:
            return result
        assert time.monotonic() < deadline, f"still {result!r} after {timeout} s"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Http(httpx2.Client):
    """A client of one server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        header = {} if key is None else {"Authorization": f"Bearer {key}"}
        super().__init__(base_url=url, timeout=60, headers=header, verify=False)  # which reads no certificates

    def learn(self, **body: Any) -> httpx2.Response:
        return self.post("/learn", json=body)

    def learned(self, **body: Any) -> dict[str, Any]:
        """The one job, after waiting for its end."""
        answer = self.learn(**body, wait=60)
        assert answer.status_code == 200, answer.text
        [job] = answer.json()["jobs"]
        return dict(job)

    def generate(self, prompt: str, **body: Any) -> dict[str, Any]:
        answer = self.post("/generate", json={"prompt": prompt, "max_new_tokens": 12} | body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/learn/{job_id}").raise_for_status().json())

    def versions(self, namespace: str = "default") -> list[dict[str, Any]]:
        return list(self.get("/versions", params={"namespace": namespace}).raise_for_status().json()["versions"])

    def live(self, namespace: str = "default") -> str:
        [version] = [v["version"] for v in self.versions(namespace) if v["live"]]
        return str(version)

    def metric(self, name: str, **labels: str) -> float:
        return self.scrape()(name, **labels)

    def scrape(self) -> Callable[..., float]:
        """What one scrape says: of a metric's name and labels, the sum."""
        lines = self.get("/metrics").raise_for_status().text.splitlines(keepends=True)

        def value(name: str, **labels: str) -> float:
            families = text_string_to_metric_families("".join(line for line in lines if line.startswith((name + "{", name + " "))))
            return sum(s.value for f in families for s in f.samples if labels.items() <= s.labels.items())

        return value


def finals(http: Http, jobs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    found = [http.job(job["job_id"]) for job in jobs]
    return found if all(job["status"] in FINAL for job in found) else None


def each_learned_once(http: Http, jobs: list[dict[str, Any]]) -> None:
    """Every job succeeded, and every document that changed something is in exactly one version."""
    ended = eventually(lambda: finals(http, jobs))
    assert [job["status"] for job in ended] == ["succeeded"] * len(jobs)
    changed = {job["document_id"] for job in ended if any(fold["iterations"] for fold in job["report"]["folds"])}
    eventually(lambda: changed <= {name for v in http.versions() for name in v["documents"]})  # a server hears of others late
    versions = http.versions()
    learned = [name for version in versions for name in version["documents"]]
    assert len(learned) == len(set(learned))
    assert set(learned) == changed
    assert [version["version"] for version in versions] == [f"v{n}" for n in range(len(versions))]
    assert [version["parent"] for version in versions[1:]] == [version["version"] for version in versions[:-1]]


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as fields."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and fields:
            yield fields
            fields = {}
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.strip()


def refused(answer: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of an answer that has the form which the design promises."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:300]}"
    body = answer.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "\n" not in error["message"]
    assert code is None or error["code"] == code
    return dict(error)


class ThreadServer:
    """The real application on a real socket, in a thread of this process, so that a test can reach inside."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        self.settings = settings
        self.app = app = create_app(settings)
        self.runtime: Runtime = app.state.runtime
        config = server_config(app, settings)
        config.port = port
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> "ThreadServer":
        self._thread.start()
        eventually(lambda: self._server.started or not self._thread.is_alive())
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = Http(self.url, None if (key := self.settings.admin_key) is None else key.get_secret_value())
        eventually(lambda: self.http.get("/readyz").json().get("learning"))
        return self

    def stop(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def serving(settings: Settings) -> Iterator[ThreadServer]:
    server = ThreadServer(settings).start()
    try:
        yield server
    finally:
        server.stop()


COMMAND = Path(sys.executable).parent / "infold"


class ProcessServer:
    """The installed command as a process of its own."""

    def __init__(self, data_dir: Path, *flags: str, **environment: str) -> None:
        self.data_dir, self.port = data_dir, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = Http(self.url)
        self.log = data_dir.with_name(f"{data_dir.name}-{self.port}.log")
        command = [str(COMMAND), "serve", "--port", str(self.port), "--data-dir", str(data_dir), *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            )

    def await_ready(self, learning: bool = True) -> "ProcessServer":
        eventually(lambda: self._ready(learning), 90)
        return self

    def _ready(self, learning: bool) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = self.http.get("/readyz")
        except httpx2.TransportError:
            return False
        return answer.status_code == 200 and (not learning or bool(answer.json()["learning"]))

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(90)
        self.http.close()
        return code

    def remove(self) -> None:
        """End whatever is left of it, its Valkey too."""
        self.end(signal.SIGKILL)
        shut_down_valkey(self.data_dir)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def valkey_of(data_dir: Path) -> "redis.Redis":
    socket_path = str(EmbeddedValkey(data_dir).socket)
    return redis.Redis(unix_socket_path=socket_path, decode_responses=True, retry=Retry(NoBackoff(), 0))


def valkey_pid(data_dir: Path) -> int:
    with valkey_of(data_dir) as client:
        info: Any = client.info("server")
        return int(info["process_id"])


def shut_down_valkey(data_dir: Path) -> None:
    with valkey_of(data_dir) as client, suppress(redis.ConnectionError):
        client.shutdown(nosave=True)
