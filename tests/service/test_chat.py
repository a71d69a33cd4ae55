"""`infold chat` and `infold top`: through pipes, and on a real terminal."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from scripted import error, ok, scripted
from serving import COMMAND, ThreadServer, eventually
from test_cli import Run, failed, run, run_alone

__all__ = ["run"]


def test_each_line_is_a_turn_and_each_answer_names_its_version(run: Run) -> None:
    said = run("chat", "--json", "--max-tokens", "8", stdin="Where does Maria Okafor live?\n\nAnd who are you?\n")
    assert said.exit_code == 0, said.output
    turns = [json.loads(line) for line in said.stdout.splitlines()]
    assert [turn["version"] for turn in turns] == ["v0", "v0"]
    assert run("chat", stdin="Where does Maria Okafor live?\n").exit_code == 0, "an answer may be as long as fits"
    plain = run("chat", "--max-tokens", "8", stdin="Where does Maria Okafor live?\n")
    assert plain.stdout == turns[0]["text"] + "\n"
    assert plain.stderr == "v0\n"
    failed(run("chat", "--version", "v99", stdin="Where?\n"), "404", "v99")


def test_a_long_conversation_forgets_its_beginning_instead_of_ending(run: Run) -> None:
    said = run("chat", "--json", "--max-tokens", "64", stdin="Where does she live? I should like to know.\n" * 12)
    assert said.exit_code == 0, said.output
    assert len(said.stdout.splitlines()) == 12


def test_the_conversation_so_far_is_told() -> None:
    def chunk(text: str, reason: str | None = None) -> bytes:
        choice = {"delta": {"content": text}, "finish_reason": reason}
        return b"data: " + json.dumps({"weight_version": "v7", "choices": [choice]}).encode() + b"\n\n"

    events = (200, chunk("Ber") + chunk("gen", "stop") + b"data: [DONE]\n\n", {"Content-Type": "text/event-stream"})
    with scripted(ok({"data": [{"id": "m:other"}]}), ok({"namespace": "own"}), events) as script:
        said = run_alone("chat", "--system", "Be brief.", "--url", script.url, stdin="One?\nTwo?\n")
    assert (said.exit_code, said.stdout) == (0, "Bergen\nBergen\n")
    assert script.asked[-1].body["model"] == "m:own"
    assert [turn["content"] for turn in script.asked[-1].body["messages"]] == ["Be brief.", "One?", "Bergen", "Two?"]


def test_top_once_shows_queue_versions_drift_throughput_and_latency(run: Run) -> None:
    run("ask", "Q: Where?", "--max-new-tokens", "3")
    seen = json.loads(run("top", "--once", "--json").stdout)
    assert seen["redis_up"] is True
    assert seen["per_second"]["tokens written"] > 0
    assert seen["latency_seconds"]["first token"]["p50"] > 0
    assert seen["versions"][0] == {"version": "v0", "live": True, "documents": [], "drift": None}
    assert {"namespace", "version", "queued", "oldest_seconds", "dead_letters", "canaries"} == set(seen["namespaces"][0])
    shown = run("top", "--once")
    assert shown.exit_code == 0
    for word in ("queue", "versions", "drift", "throughput", "latency", "v0 (live)"):
        assert word in shown.stdout


def test_top_says_when_metrics_are_none() -> None:
    with scripted(ok({"versions": []}), (200, b"a{ 1", {})) as script:
        failed(run_alone("top", "--once", "--url", script.url), "no metrics")
    with scripted(error(404, "unknown_namespace")) as script:
        failed(run_alone("top", "--once", "--url", script.url), "404")


def _interruptible() -> None:
    """As a shell starts what it runs in front; tests that run behind one have inherited that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(server: ThreadServer) -> Iterator[Callable[..., tuple["subprocess.Popen[bytes]", int]]]:
    """Run a command on a terminal of its own; returns it and the terminal's other end."""
    begun: list[tuple[subprocess.Popen[bytes], int]] = []

    def begin(*arguments: str) -> tuple["subprocess.Popen[bytes]", int]:
        ours, theirs = pty.openpty()
        command = [str(COMMAND), *arguments, "--url", server.url]
        there = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "60"}
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=there, preexec_fn=_interruptible
        )
        os.close(theirs)
        begun.append((process, ours))
        return begun[-1]

    yield begin
    for process, ours in begun:
        process.kill()
        process.wait()
        with suppress(OSError):
            os.close(ours)


@pytest.mark.parametrize("end", ["q", "interrupt"])
def test_top_runs_on_a_terminal_until_it_is_told_to_end(
    terminal: Callable[..., tuple["subprocess.Popen[bytes]", int]], end: str
) -> None:
    process, ours = terminal("top", "--interval", "0.2")
    seen = b""

    def drawn() -> bool:
        nonlocal seen
        seen += os.read(ours, 65536)
        return seen.count(b"throughput") >= 2

    eventually(drawn)
    if end == "q":
        os.write(ours, b"q")
    else:
        process.send_signal(signal.SIGINT)
    os.set_blocking(ours, False)

    def ended() -> bool:
        with suppress(OSError):  # what it writes must be read, or it could not end
            os.read(ours, 65536)
        return process.poll() is not None

    eventually(ended)
    assert process.returncode == 0
