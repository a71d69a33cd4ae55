"""`infold learn | forget | status`: teach documents, take them back, and see what has been learned."""

import json
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, err, out, reported
from service.errors import ServiceError

app = typer.Typer()


@app.command()
def learn(
    files: Annotated[list[str], typer.Argument(help="Files to learn; - for standard input.")],
    url: Url = LOCAL,
    namespace: str = "default",
    wait: Annotated[float, typer.Option(help="Seconds to wait for each document to be live.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Teach documents, one per file."""
    client, failed = Client(url), False
    with reported():
        for name in files:
            text = _read(name)
            if wait:
                with err.status(f"learning {escape(name)}"):
                    job = client.post("/learn", {"text": text, "namespace": namespace, "wait": wait})["jobs"][0]
            else:
                job = client.post("/learn", {"text": text, "namespace": namespace})["jobs"][0]
            failed |= job["status"] in ("failed", "rejected")
            if as_json:
                sys.stdout.write(json.dumps(job) + "\n")
                continue
            out.print(f"{name}: {job['status']}" + (f", {job['version']} answers" if job.get("version") else ""), markup=False)
            for view in (job.get("report") or {}).get("views", []):
                out.print(f"  {view}", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def forget(
    document: Annotated[str, typer.Argument(help="Id of the document.")],
    exact: Annotated[bool, typer.Option(help="Learn anew what came after it.")] = False,
    url: Url = LOCAL,
    namespace: str = "default",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the version without it.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Take a document back: out of the weights, and its text out of every store."""
    query = {"namespace": namespace, "exact": exact, "wait": wait}
    with reported():
        with err.status(f"forgetting {escape(document)}"):
            job = Client(url).delete(f"/documents/{quote(document, safe='')}", **query)
        if as_json:
            sys.stdout.write(json.dumps(job) + "\n")
        elif job["status"] == "succeeded":
            report = job["report"]
            out.print(f"{document}: forgotten, {job['version']} answers now", markup=False)
            out.print(f"  of its {report['forgotten']['asked']} questions {report['left']} are still answered as it taught")
            others = report["others"]
            out.print(
                f"  of {others['asked']} questions of other documents {others['after']} are answered; before: {others['before']}"
            )
        else:
            out.print(f"{document}: {job['status']}, see /learn/{job['job_id']}", markup=False)
    if job["status"] in ("failed", "rejected"):
        raise typer.Exit(1)


@app.command()
def status(url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """What the server serves and has learned."""
    with reported():
        client = Client(url)
        ready = client.get("/readyz")
        live = next(v for v in client.get("/versions", namespace=namespace)["versions"] if v["live"])
        total = client.get("/documents", namespace=namespace, limit=1)["total"]
    shown = {**ready, "namespace": namespace, "version": live["version"], "documents": total}
    if as_json:
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    for key, value in shown.items():
        out.print(f"{key:10} {value}", markup=False)


def _read(name: str) -> str:
    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes() if Path(name).is_file() else None
    if raw is None:
        raise ServiceError(f"there is no file {name}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ServiceError(f"{name} is not UTF-8 text: {error}") from error
