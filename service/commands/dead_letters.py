"""`infold dead-letters list | retry | drop`: what could not be learned, and what to do about it."""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Column, Table

from service.client import Client, ServerRefused
from service.commands.common import LOCAL, AsJson, Url, err, out, reported

app = typer.Typer(name="dead-letters", help="What could not be learned: see it, try it again, let it go.", no_args_is_help=True)
MOST = 10_000
"""Of which the server tells at once."""

Jobs = Annotated[list[str] | None, typer.Argument(help="Ids of jobs.", metavar="JOB...")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter of the namespace.")]


@app.command("list")
def list_(
    url: Url = LOCAL,
    namespace: str = "default",
    limit: Annotated[int, typer.Option(help="How many to show, newest first.", min=1, max=MOST)] = 100,
    as_json: AsJson = False,
) -> None:
    """Jobs that were given up, and why."""
    with reported():
        found = Client(url).get("/dead-letters", namespace=namespace, limit=limit)
    letters = found["dead_letters"]
    if as_json:
        sys.stdout.write(json.dumps(letters) + "\n")
        return
    table = Table(Column("job", no_wrap=True), "document", "given up", "attempts", "error")
    for letter in letters:
        when = datetime.fromtimestamp(letter["buried_at"]).astimezone().isoformat(" ", "seconds")
        table.add_row(letter["job_id"], letter["document_id"], when, str(letter["attempts"]), escape(letter["error"]))
    out.print(table)
    if found["total"] > len(letters):
        err.print(f"{found['total'] - len(letters)} more; see --limit")


@app.command()
def retry(jobs: Jobs = None, url: Url = LOCAL, namespace: str = "default", every: All = False, as_json: AsJson = False) -> None:
    """Queue them again, as if they had never been tried."""
    client = Client(url)
    _each(client, jobs, namespace if every else None, as_json, lambda job: client.post(f"/dead-letters/{job}/retry", {}))


@app.command()
def drop(jobs: Jobs = None, url: Url = LOCAL, namespace: str = "default", every: All = False, as_json: AsJson = False) -> None:
    """Take them out of the dead letters; they stay failed."""
    client = Client(url)
    _each(client, jobs, namespace if every else None, as_json, lambda job: client.delete(f"/dead-letters/{job}"))


def _each(
    client: Client, jobs: list[str] | None, every_of: str | None, as_json: bool, change: Callable[[str], dict[str, Any]]
) -> None:
    """Change the jobs that are named, or every one of a namespace. What is refused does not keep the others."""
    if bool(jobs) == (every_of is not None):
        raise typer.BadParameter("name jobs, or give --all")
    failed = False
    if every_of is not None:
        with reported():
            found = client.get("/dead-letters", namespace=every_of, limit=MOST)["dead_letters"]
        jobs = [letter["job_id"] for letter in found]
    for name in jobs or []:
        try:
            job = change(quote(name, safe=""))
        except ServerRefused as error:
            err.print(f"[red]error:[/red] {escape(str(error))}")
            failed = True
            continue
        if as_json:
            sys.stdout.write(json.dumps(job) + "\n")
        else:
            out.print(f"{name}: {job['status']}", markup=False)
    if failed:
        raise typer.Exit(1)
