"""`infold learn`: teach files, folders and standard input."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infold import BadRequest, Client, Job, Unavailable
from service.commands.common import FAILED, LOCAL, AsJson, Key, Namespace, Url, Wait, complain, err, out, print_json, server
from service.errors import ServiceError
from service.extract import Unreadable, text_of
from service.sources import STANDARD_INPUT, Source, find

app = typer.Typer()
AHEAD = 16
"""Documents that wait at the server while one is learned, so that it is never idle."""
PATIENCE_SECONDS = 120
"""For a server that is restarted, a queue that is full, a rate that is used up."""
KINDS = ("learned", "unchanged", "queued", "rejected", "failed", "skipped")
BAD = {"rejected", "failed", "skipped"}


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    source: Source
    kind: str
    reason: str = ""
    job: Job | None = None


@app.command()
def learn(
    files: Annotated[list[str], typer.Argument(help="Files, folders, patterns; - for standard input.")],
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    wait: Wait = 60,
    root: Annotated[Path, typer.Option(help="Documents are named by their paths below this folder.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Teach documents, one a file: text, Markdown, HTML, PDF. Learning the same files again learns what has changed."""
    began, sources, seen = time.monotonic(), find(files, root), list[Outcome]()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        server(url, api_key) as first,
        server(url, api_key, PATIENCE_SECONDS) as client,
        Progress(*columns, console=err, transient=True, redirect_stdout=sys.stdout.isatty(), disable=not err.is_terminal) as bar,
    ):
        _reach(first)
        task = bar.add_task("", total=len(sources))
        try:
            for outcome in _each(client, sources, namespace, wait, lambda name: bar.update(task, description=escape(name))):
                bar.advance(task)
                seen.append(outcome)
                _show(outcome, as_json)
        finally:
            if len(sources) > 1:
                _sum_up(seen, len(sources), time.monotonic() - began)
    if any(outcome.kind in BAD for outcome in seen):
        raise typer.Exit(FAILED)


def _reach(client: Client) -> None:
    """A server that is not there is known at once, and one that is starting is waited for."""
    with suppress(Unavailable):
        client.ready()


def _each(
    client: Client, sources: list[Source], namespace: str | None, wait: float, working: Callable[[str], None]
) -> Iterator[Outcome]:
    """What becomes of each, as it is known."""
    waiting: deque[Outcome] = deque()
    for source in sources:
        working(source.name)
        outcome = _begin(client, source, namespace)
        if outcome.kind == "queued" and wait:
            waiting.append(outcome)
        else:
            yield outcome
        if len(waiting) > AHEAD:
            yield _await(client, waiting.popleft(), wait, working)
    while waiting:
        yield _await(client, waiting.popleft(), wait, working)


def _begin(client: Client, source: Source, namespace: str | None) -> Outcome:
    """Hand one document in."""
    try:
        raw = sys.stdin.buffer.read() if source.name == STANDARD_INPUT else Path(source.name).read_bytes()
        job = client.learn(text_of(source.name, raw), id=source.document_id, namespace=namespace, wait=0)
    except FileNotFoundError:
        return Outcome(source, "skipped", "there is no such file")
    except IsADirectoryError:
        return Outcome(source, "skipped", "there is nothing to learn in this folder")
    except (Unreadable, OSError) as error:
        return Outcome(source, "skipped", str(error))
    except BadRequest as error:  # of this document; other errors would meet them all
        return Outcome(source, "failed", f"{error.status}: {error}")
    if not job.ended:
        return Outcome(source, "queued", job=job)
    known = client.job(job.job_id)  # it was there before: nothing has changed since
    return _ended(source, known) if known.status != "succeeded" else Outcome(source, "unchanged", job=known)


def _await(client: Client, outcome: Outcome, wait: float, working: Callable[[str], None]) -> Outcome:
    """Wait until a job has ended, or for so long."""
    assert outcome.job is not None
    job, until, pause = outcome.job, time.monotonic() + wait, 0.02
    while not job.ended and time.monotonic() < until:
        working(f"{outcome.source.name}: {job.status}")
        time.sleep(pause)
        pause = min(0.5, 1.5 * pause)
        job = client.job(job.job_id)
    return _ended(outcome.source, job) if job.ended else Outcome(outcome.source, "queued", job=job)


def _ended(source: Source, job: Job) -> Outcome:
    report = job.report or {}
    if job.status == "succeeded":
        return Outcome(source, "learned", job=job) if report.get("folds") else Outcome(source, "unchanged", "known already", job)
    kind = "rejected" if job.status == "rejected" else "failed"
    return Outcome(source, kind, str(report.get("rejection") or job.error or job.status), job)


def _show(outcome: Outcome, as_json: bool) -> None:
    job, name = outcome.job, outcome.source.name
    if as_json:
        about = {"file": name, "outcome": outcome.kind} | ({"reason": outcome.reason} if outcome.reason else {})
        print_json(about | (job.model_dump(exclude_unset=True) if job else {}))
    if job is None:
        complain(ServiceError(outcome.reason), f"{name}: ")
    elif not as_json:
        more = outcome.reason or (f"{job.version} answers" if outcome.kind == "learned" else "")
        called = "" if job.document_id in (name, None) else f" ({job.document_id})"  # as other commands know it
        out.print(f"{name}{called}: {outcome.kind}" + (f", {more}" if more else ""), markup=False)
        for view in (job.report or {}).get("views", []) if outcome.kind == "learned" else []:
            out.print(f"  {view}", markup=False)
        for warning in (job.report or {}).get("warnings", []):
            out.print(f"  warning: {warning}", markup=False)


def _sum_up(seen: list[Outcome], total: int, seconds: float) -> None:
    counts = Counter(outcome.kind for outcome in seen)
    parts = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
    if total > len(seen):
        parts.append(f"{total - len(seen)} not finished")
    err.print(f"{', '.join(parts)}; {seconds:.1f} s", markup=False)
