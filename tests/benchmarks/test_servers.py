"""A measured server answers in its turn, is stopped dead out of it, and is gone in the end."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from benchmarks.serving.servers import Command, Server, confined, usable
from service.errors import ServiceError

FILES = Command("files", (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(FILES, tmp_path / "log")
    found.wait_until("/", "Directory listing")
    yield found
    found.end()


def test_it_answers_only_in_its_turn(server: Server) -> None:
    server.sleep()
    with pytest.raises(httpx2.TimeoutException):
        httpx2.get(server.url, timeout=0.2)
    with server.turn():
        assert httpx2.get(server.url, timeout=30).status_code == 200


def test_it_ends_while_it_sleeps(server: Server) -> None:
    server.sleep()
    server.end()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_it_keeps_to_its_cores_and_so_does_who_is_confined_for_as_long(tmp_path: Path) -> None:
    every, one = usable(), frozenset({min(usable())})
    with confined(one):
        assert usable() == one
        kept = Server(Command("files", FILES.arguments, cores=every), tmp_path / "log")
        assert os.sched_getaffinity(kept.pid) == every
        kept.end()
    assert usable() == every


def test_one_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = Server(Command("broken", (sys.executable, "-c", "print('no room'); raise SystemExit(3)")), tmp_path / "log")
    with pytest.raises(ServiceError, match="broken ended with 3: no room"):
        broken.wait_until("/")
    broken.end()
