"""`infold learn` against a live server: folders, formats, what has changed, what is refused, and servers that make one wait."""

import json
from pathlib import Path

import pytest
from conftest import Taught
from scripted import error, ok, scripted
from serving import ThreadServer, free_port
from test_cli import Run, failed, run, run_alone
from test_extract import pdf

__all__ = ["run"]
ENDED = {
    "job_id": "job-1",
    "document_id": "a.txt",
    "status": "succeeded",
    "version": "v1",
    "report": {"folds": [{}], "views": ["Q: Who? A: Ann."]},
}


def outcomes(output: str) -> dict[str, str]:
    return {Path(line["file"]).name: line["outcome"] for line in map(json.loads, output.splitlines())}


def test_a_folder_is_learned_and_later_only_what_has_changed(run: Run, tmp_path: Path, facts: list[Taught]) -> None:
    """Text, Markdown, HTML and PDF; one that cannot be read is named, skipped, and makes it end with 1."""
    texts = [fact.text for fact in facts[:4]]
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text(texts[0])
    (tmp_path / "deep" / "b.md").write_text(texts[1])
    (tmp_path / "c.html").write_text(f"<html><body><p>{texts[2]}</p></body></html>")
    (tmp_path / "d.pdf").write_bytes(pdf(texts[3]))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    first = run("learn", str(tmp_path), "--root", str(tmp_path), "--json")
    assert first.exit_code == 1, first.output
    became = outcomes(first.stdout)
    assert became.pop("empty.txt") == "skipped"
    assert set(became) == {"a.txt", "b.md", "c.html", "d.pdf"}
    assert set(became.values()) <= {"learned", "unchanged", "rejected"}
    said = first.stderr.splitlines()
    assert said[0] == f"error: {tmp_path / 'empty.txt'}: it is empty"
    assert said[-1].startswith("4 learned, 1 skipped; ") or "learned" in said[-1]
    assert {line["document_id"] for line in map(json.loads, first.stdout.splitlines()) if "document_id" in line} == {
        "a.txt", "deep:b.md", "c.html", "d.pdf",
    }  # fmt: skip

    (tmp_path / "empty.txt").unlink()
    (tmp_path / "a.txt").write_text(facts[4].text)
    second = run("learn", str(tmp_path), "--root", str(tmp_path), "--json")
    now = outcomes(second.stdout)
    assert now.pop("a.txt") in ("learned", "rejected")
    assert all(outcome == ("rejected" if became[name] == "rejected" else "unchanged") for name, outcome in now.items())
    assert json.loads(run("status", "--json").stdout)["documents"] == 4


def test_a_document_that_contradicts_itself_is_learned_with_a_warning(run: Run) -> None:
    text = "Elsa Quint works as a carpenter. The shops were closed. Elsa Quint works as a baker."
    taught = run("learn", "-", stdin=text)
    assert taught.exit_code == 0, taught.output
    [warning] = [line for line in taught.stdout.splitlines() if line.startswith("  warning: ")]
    for said in ("Elsa Quint", "carpenter", "baker"):
        assert said in warning


def test_a_full_queue_and_a_server_that_comes_back_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    queued = ok({"jobs": [{"job_id": "job-1", "document_id": "a.txt", "status": "queued"}]})
    busy = error(429, "queue_full", Retry_After="0.05")
    with scripted(ok({"status": "ready"}), busy, None, queued, busy, ok(ENDED)) as script:
        learned = run_alone("learn", str(tmp_path / "a.txt"), "--root", str(tmp_path), "--url", script.url)
    said = f"{tmp_path / 'a.txt'} (a.txt): learned, v1 answers\n  Q: Who? A: Ann.\n"
    assert (learned.exit_code, learned.stdout) == (0, said), learned.output
    keys = {asked.headers["idempotency-key"] for asked in script.asked if asked.path == "/learn"}
    assert len(keys) == 1


def test_what_would_meet_every_document_ends_it_at_once(server: ThreadServer, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{n}.txt") for n in range(3)]
    for name in files:
        Path(name).write_text("A text.")
    wrong = run_alone("learn", *files, "--url", server.url, "--namespace", "nowhere")
    assert wrong.exit_code == 1
    assert [line for line in wrong.stderr.splitlines() if "404" in line and "nowhere" in line]
    assert "3 not finished" in wrong.stderr
    away = run_alone("learn", *files, "--url", f"http://127.0.0.1:{free_port()}")
    assert away.exit_code == 3
    assert "infold serve" in away.stderr


def test_a_missing_extra_is_named(server: ThreadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("A text."))
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    failed(run_alone("learn", str(tmp_path / "a.pdf"), "--url", server.url), "a.pdf", "pip install 'infold[documents]'")


@pytest.mark.parametrize(
    "command", [("learn", "-"), ("ask", "Q:"), ("chat",), ("top", "--once"), ("versions",), ("canaries", "list")]
)
def test_the_key_is_sent_and_without_it_one_is_told_what_to_do(command: tuple[str, ...]) -> None:
    with scripted(error(401, "invalid_api_key")) as script:
        failed(
            run_alone(*command, "--url", script.url, "--api-key", "k-1", stdin="A text.\n"), "401", "--api-key", "INFOLD_API_KEY"
        )
        failed(run_alone(*command, "--url", script.url, stdin="A text.\n", INFOLD_API_KEY="k-2"), "401")
    assert {asked.headers["authorization"] for asked in script.asked} == {"Bearer k-1", "Bearer k-2"}
    with scripted(error(403, "insufficient_scope")) as script:
        failed(run_alone(*command, "--url", script.url, stdin="A text.\n"), "403", "insufficient_scope")
