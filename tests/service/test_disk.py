"""A disk that is full: nothing is lost, nobody stops answering, and learning goes on when there is room again."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Taught
from serving import ProcessServer, each_learned_once, eventually, finals

from service.valkey import EmbeddedValkey

pytestmark = pytest.mark.slow
ROOM = 64
"""MiB."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Until there is no room for another block."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_version_that_finds_no_room_is_written_when_there_is_some(
    small_disk: Path, embedded: EmbeddedValkey, flushed: str, facts: list[Taught]
) -> None:
    assert embedded.url == flushed, "the store is elsewhere, and has room"
    server = ProcessServer(small_disk / "data", "--redis-url", flushed)
    try:
        http = server.await_ready().http
        first = http.learned(text=facts[0].text, id="first")
        ballast = fill(small_disk)
        jobs = [http.learn(text=fact.text, id=f"doc-{n}").json()["jobs"][0] for n, fact in enumerate(facts[1:3])]
        eventually(lambda: b"cannot be written, waiting" in server.log.read_bytes())
        assert http.generate(facts[0].prompt)["text"] == facts[0].answer
        assert [http.job(job["job_id"])["status"] for job in jobs] == ["running", "queued"]
        ballast.unlink()
        each_learned_once(http, [first, *jobs])
        assert [job["attempts"] for job in finals(http, jobs) or []] == [1, 1], "it was not their fault"
        assert not list((small_disk / "data" / "versions").glob(".writing-*"))
    finally:
        server.remove()


def test_what_was_accepted_before_the_store_itself_found_no_room_is_learned(small_disk: Path, facts: list[Taught]) -> None:
    server = ProcessServer(small_disk / "data")
    try:
        http = server.await_ready().http
        accepted = [http.learn(text=fact.text, id=f"doc-{n}").json()["jobs"][0] for n, fact in enumerate(facts[:3])]
        ballast = fill(small_disk)
        for n, fact in enumerate(facts[3:6], 3):
            answer = http.learn(text=fact.text, id=f"doc-{n}")
            assert answer.status_code in (202, 503), answer.text
            accepted += answer.json()["jobs"] if answer.status_code == 202 else []
        assert http.generate("Q: Who? A:")["version"]
        ballast.unlink()
        eventually(lambda: http.get("/documents").status_code == 200)
        each_learned_once(http, accepted)
    finally:
        server.remove()
