"""The command line against a live server: what it prints, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import Result
from conftest import Taught
from serving import COMMAND, ThreadServer, free_port
from typer.main import get_command
from typer.testing import CliRunner

from service.cli import app

Run = Callable[..., Result]
COMMANDS = [
    ("ask", "Q: Where?"),
    ("blame", "Q: Where?"),
    ("status",),
    ("top", "--once"),
    ("versions",),
    ("diff", "v0", "v0"),
    ("rollback", "v0"),
    ("export", "v0", "no-such-directory"),
    ("forget", "doc"),
    ("collect", "--keep", "1"),
    ("canaries", "list"),
    ("dead-letters", "list"),
]


def run_alone(*arguments: str, stdin: str | None = None, **more: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"} | more).invoke(app, list(arguments), input=stdin)


@pytest.fixture
def run(server: ThreadServer, namespace: str) -> Run:
    """Run a command against the server, in a namespace of the test's own."""

    def invoke(command: str, *arguments: str, stdin: str | bytes | None = None) -> Result:
        full = [command, *arguments, "--url", server.url, "--namespace", namespace]
        return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, full, input=stdin)

    return invoke


def failed(result: Result, *words: str, code: int = 1) -> None:
    """It ended with that code, and said why in one line, without a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_what_was_learned_from_files_is_answered(run: Run, tmp_path: Path, facts: list[Taught]) -> None:
    files = [write(tmp_path / f"{n}.txt", fact.text) for n, fact in enumerate(facts[:3])]
    taught = run("learn", *files)
    assert taught.exit_code == 0, taught.output
    assert [line for line in taught.stdout.splitlines() if "learned" in line and "answers" in line]
    answers = [run("ask", fact.prompt).stdout for fact in facts[:3]]
    assert any(answer == f"{fact.answer}\n" for answer, fact in zip(answers, facts[:3], strict=True))


def test_standard_input_is_a_file_too(run: Run, facts: list[Taught]) -> None:
    taught = run("learn", "-", "--json", stdin=facts[0].text)
    assert taught.exit_code == 0, taught.output
    assert json.loads(taught.stdout)["status"] == "succeeded"


def test_learning_without_waiting_says_that_it_is_queued(run: Run, tmp_path: Path) -> None:
    taught = run("learn", write(tmp_path / "a.txt", "A quiet text."), "--wait", "0", "--json")
    assert taught.exit_code == 0
    assert json.loads(taught.stdout)["status"] in ("queued", "running", "succeeded")


def test_json_is_one_value_a_line(run: Run, tmp_path: Path, facts: list[Taught]) -> None:
    files = [write(tmp_path / f"{n}.txt", fact.text) for n, fact in enumerate(facts[:2])]
    jobs = [json.loads(line) for line in run("learn", *files, "--json").stdout.splitlines()]
    assert [set(job) >= {"job_id", "status", "report"} for job in jobs] == [True, True]
    asked = json.loads(run("ask", facts[0].prompt, "--json").stdout)
    assert set(asked) >= {"text", "version", "usage", "finish_reason"}
    status = json.loads(run("status", "--json").stdout)
    assert status["status"] == "ready"
    assert status["documents"] == 2
    versions = json.loads(run("versions", "--json").stdout)
    assert versions[0]["version"] == "v0"
    assert status["version"] == next(v["version"] for v in versions if v["live"])


def test_status_and_versions_are_readable(run: Run) -> None:
    status = run("status")
    assert status.exit_code == 0
    assert "ready" in status.stdout
    versions = run("versions")
    assert versions.exit_code == 0
    assert "v0 (live)" in versions.stdout


def test_a_difference_is_readable_and_json(run: Run, tmp_path: Path, facts: list[Taught]) -> None:
    taught = json.loads(run("learn", write(tmp_path / "a.txt", facts[0].text), "--json").stdout)
    shown = run("diff", "v0", "v1")
    assert shown.exit_code == 0, shown.output
    assert f"+ {taught['document_id']}" in shown.stdout
    assert "mlp.down_proj" in shown.stdout
    found = json.loads(run("diff", "v1", "v0", "--json").stdout)
    assert found["documents"] == {"added": [], "removed": [taught["document_id"]]}
    failed(run("diff", "v0", "v99"), "404", "v99")


def test_a_rollback_takes_effect_and_respects_what_was_expected(run: Run, facts: list[Taught], tmp_path: Path) -> None:
    run("learn", write(tmp_path / "a.txt", facts[0].text))
    failed(run("rollback", "v0", "--expected", "v7"), "412", "v7")
    rolled = run("rollback", "v0", "--expected", "v1")
    assert rolled.exit_code == 0, rolled.output
    assert "v0 answers now" in rolled.stdout
    assert json.loads(run("status", "--json").stdout)["version"] == "v0"


def test_a_version_can_be_asked_for(run: Run, facts: list[Taught]) -> None:
    assert json.loads(run("ask", facts[0].prompt, "--version", "v0", "--json").stdout)["version"] == "v0"
    for more in ([], ["--json"]):
        failed(run("ask", facts[0].prompt, "--version", "v99", *more), "404", "v99")


def test_blame_names_the_documents_behind_an_answer(run: Run, facts: list[Taught], tmp_path: Path) -> None:
    files, root = [write(tmp_path / f"{n}.txt", facts[n].text) for n in range(2)], ["--root", str(tmp_path)]
    jobs = [json.loads(run("learn", file, *root, "--json").stdout) for file in files]
    for job, fact in zip(jobs, facts[:2], strict=True):
        found = json.loads(run("blame", fact.prompt, "--json", "--top", "1").stdout)
        assert found["text"] == fact.answer
        [source] = found["sources"]
        assert (source["document_id"], source["version"]) == (job["document_id"], job["version"])
        shown = run("blame", fact.prompt).stdout
        assert fact.answer in shown
        assert job["document_id"] in shown
    assert "no learned document" in run("blame", facts[0].prompt, "--version", "v0").stdout
    failed(run("blame", facts[0].prompt, "--version", "v99"), "404", "v99")


def test_a_prompt_that_does_not_fit_is_an_error_in_words(run: Run) -> None:
    failed(run("ask", "word " * 400), "400", "context")


def test_files_that_cannot_be_learned_are_errors_in_words(run: Run, tmp_path: Path) -> None:
    failed(run("learn", str(tmp_path / "missing.txt")), "missing.txt")
    failed(run("learn", "[/red][link=x].txt"), "[/red][link=x].txt")
    failed(run("learn", str(tmp_path)), str(tmp_path))
    failed(run("learn", write(tmp_path / "empty.txt", " \n")), "empty")
    failed(run("learn", "-", stdin=b"\xff\xfe"), "UTF-8")
    binary = tmp_path / "binary"
    binary.write_bytes(b"a\0b")
    failed(run("learn", str(binary)), "NUL")
    failed(run("learn", write(tmp_path / "large.txt", "word " * 100_000)), "413", "tokens")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_namespace_is_an_error_in_words(server: ThreadServer, command: tuple[str, ...]) -> None:
    failed(run_alone(*command, "--url", server.url, "--namespace", "nowhere"), "404", "nowhere")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "nonsense", "http://", "ftp://127.0.0.1:{port}", "http://[::1"])
def test_without_a_server_there_is_an_error_in_words(command: tuple[str, ...], url: str) -> None:
    failed(run_alone(*command, "--url", url.format(port=free_port())), code=3)


@pytest.fixture
def other_server() -> Iterator[str]:
    """Something that is no infold."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>hello</html>"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    found = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.mark.parametrize("command", [*COMMANDS, ("ask", "Q: Where?", "--json")])
def test_another_server_is_an_error_in_words(other_server: str, command: tuple[str, ...]) -> None:
    failed(run_alone(*command, "--url", other_server))


@pytest.mark.parametrize(
    "arguments",
    [
        ["learn"],
        ["ask"],
        ["blame"],
        ["blame", "Q:", "--top", "0"],
        ["rollback"],
        ["nonsense"],
        ["ask", "a", "--no-such-option"],
        ["serve", "--port", "many"],
        ["learn", "-", "--wait", "nan"],
        ["learn", "-", "--wait", "-3"],
        ["forget", "a", "--wait", "inf"],
        ["canaries", "remove"],
        ["dead-letters", "retry"],
    ],
)
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    assert run_alone(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["", *get_command(app).commands])  # type: ignore[attr-defined]
def test_every_command_explains_itself(command: str) -> None:
    assert run_alone(*[command] * bool(command), "--help").exit_code == 0


def test_a_server_whose_port_is_taken_ends_before_it_begins(server: ThreadServer, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    failed(run_alone("serve", "--port", port, "--data-dir", str(tmp_path / "data")), port, "Address already in use", "--port")
    assert not (tmp_path / "data").exists(), "not even its store"


@pytest.mark.parametrize("arguments", [["--port", "99999"], ["--namespace", "Not Valid"], ["--config", "none.toml"]])
def test_a_server_with_impossible_settings_does_not_start(tmp_path: Path, arguments: list[str]) -> None:
    failed(run_alone("serve", "--data-dir", str(tmp_path / "data"), *arguments))


def test_impossible_settings_are_refused_before_the_seconds_that_torch_takes() -> None:
    script = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); from service.cli import app; app()"
    wrong = os.environ | {"INFOLD_PORT": "99999"}
    for command in (["serve"], ["worker"], ["doctor"], ["train-scorer", "model"]):
        done = subprocess.run([sys.executable, "-c", script, *command], env=wrong, capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (1, "False"), done.stderr


def test_a_data_directory_that_cannot_be_is_an_error_in_words(tmp_path: Path) -> None:
    failed(run_alone("serve", "--data-dir", str(Path(write(tmp_path / "file", "")) / "data")), "Not a directory")


def test_whatever_prints_results_can_print_json() -> None:
    def leaves(group: Any) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            yield from leaves(command) if hasattr(command, "commands") else [(name, command)]

    top = get_command(app)
    top.commands = {name: command for name, command in top.commands.items() if name not in ("serve", "worker")}  # type: ignore[attr-defined]
    without = [name for name, command in leaves(top) if not any("--json" in option.opts for option in command.params)]
    assert without == []
    alone = {"doctor", "train-scorer", *get_command(app).commands["bench"].commands}  # type: ignore[attr-defined]
    talking = [command for name, command in leaves(top) if name not in alone]
    assert all(any("--api-key" in option.opts for option in command.params) for command in talking)


def test_it_says_which_version_it_is() -> None:
    """That of the package's metadata, as the server does."""
    said = run_alone("--version")
    assert (said.exit_code, said.stdout) == (0, f"infold {metadata.version('infold')}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_its_commands(shell: str) -> None:
    """What `--show-completion` prints is a script that asks infold, which answers with what fits."""
    script = subprocess.run([str(COMMAND), "--show-completion", shell], capture_output=True, text=True, timeout=60)
    assert (script.returncode, script.stderr) == (0, "")
    assert "_INFOLD_COMPLETE" in script.stdout
    asked = {"_INFOLD_COMPLETE": f"complete_{shell}", "COMP_WORDS": "infold ca", "COMP_CWORD": "1"}
    asked |= {"_TYPER_COMPLETE_ARGS": "infold ca", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = subprocess.run([str(COMMAND)], capture_output=True, text=True, timeout=60, env=os.environ | asked)
    assert "canaries" in found.stdout
    assert "versions" not in found.stdout


def test_the_installed_command_streams_its_answer(server: ThreadServer) -> None:
    asked = [str(COMMAND), "ask", "Q: Where", "--url", server.url, "--max-new-tokens", "3"]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("\n")
