"""Server processes that are measured by turns: started, stopped dead while another has its turn, ended.

Covered: this machine's loopback. Not covered: what to start (`contenders.py`).
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from service.errors import ServiceError

_START_SECONDS = 900
"""Some compile first."""
_END_SECONDS = 30
_ANSWER_SECONDS = 120
_LAST_LINES = 10
"""Of a log, in an error."""

Cores = frozenset[int]
"""By number."""


@dataclass(frozen=True)
class Command:
    """How a server is started. `{port}` in an argument is filled in."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: Cores = field(default_factory=lambda: frozenset(os.sched_getaffinity(0)))
    """Those that it may use."""

    def on(self, port: int) -> list[str]:
        """The arguments for a port."""
        return [argument.replace("{port}", str(port)) for argument in self.arguments]


class Server:
    """One process with its children, in a group of its own."""

    def __init__(self, command: Command, log: Path) -> None:
        self.command, self.port, self._log = command, _free_port(), log
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(command.cores)), **command.environment}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command.on(self.port), env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        os.sched_setaffinity(self._process.pid, command.cores)  # before it has threads

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def wait_until(self, path: str, part: str = "") -> None:
        """Until a GET of `path` answers 200 with `part` in its body.

        Raises:
            ServiceError: it ended, or takes too long and was ended.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServiceError(f"{self.command.name} ended with {self._process.returncode}: {self._last_words()}")
            with suppress(httpx2.HTTPError):
                answer = httpx2.get(self.url + path, timeout=10)
                if answer.status_code == 200 and part in answer.text:
                    return
            time.sleep(0.25)
        self.end()
        raise ServiceError(f"{self.command.name} is not ready after {_START_SECONDS} s: {self._last_words()}")

    def get(self, path: str) -> Any:
        """Its answer, from JSON."""
        return httpx2.get(self.url + path, timeout=_ANSWER_SECONDS).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Its answer to a JSON body, from JSON."""
        return httpx2.post(self.url + path, json=body, timeout=_ANSWER_SECONDS).raise_for_status().json()

    def sleep(self) -> None:
        """Stop it dead, so that it takes no core from others."""
        self._signal(signal.SIGSTOP)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run, and sleep again."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def end(self) -> None:
        """Ask it to, then make it."""
        self._signal(signal.SIGCONT)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        """The end of its log, which may be gone soon."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def usable() -> Cores:
    """Cores that this process may use."""
    return frozenset(os.sched_getaffinity(0))


@contextmanager
def confined(to: Cores) -> Iterator[None]:
    """Let this thread, and those that it starts, use only these cores."""
    before = usable()
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
