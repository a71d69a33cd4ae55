"""`infold dead-letters list | retry | drop`: what could not be learned, and what to do about it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape

from infold import Client, Job, Refused
from service.commands.common import (
    FAILED,
    LOCAL,
    AsJson,
    Key,
    Namespace,
    Url,
    complain,
    err,
    out,
    print_json,
    print_wide,
    server,
    table,
)

app = typer.Typer(name="dead-letters", help="What could not be learned: see it, try it again, let it go.", no_args_is_help=True)
MOST = 10_000
"""Of which the server tells at once."""

Jobs = Annotated[list[str] | None, typer.Argument(help="Ids of jobs.", metavar="JOB...")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter of the namespace.")]


@app.command("list")
def list_(
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(help="How many to show, newest first.", min=1, max=MOST)] = 100,
    as_json: AsJson = False,
) -> None:
    """Jobs that were given up, and why."""
    with server(url, api_key) as client:
        found = client.dead_letters(namespace=namespace, limit=limit)
    letters = found["dead_letters"]
    if as_json:
        print_json(letters)
        return
    rows = table("job", "document", "given up", "attempts", "error")
    for letter in letters:
        when = datetime.fromtimestamp(letter["buried_at"]).astimezone().isoformat(" ", "seconds")
        rows.add_row(letter["job_id"], letter["document_id"], when, str(letter["attempts"]), escape(letter["error"]))
    print_wide(rows)
    if found["total"] > len(letters):
        err.print(f"{found['total'] - len(letters)} more; see --limit")


@app.command()
def retry(
    jobs: Jobs = None,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Queue them again, as if they had never been tried."""
    with server(url, api_key) as client:
        _each(client, jobs, every, namespace, as_json, client.retry)


@app.command()
def drop(
    jobs: Jobs = None,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Take them out of the dead letters; they stay failed."""
    with server(url, api_key) as client:
        _each(client, jobs, every, namespace, as_json, client.drop)


def _each(
    client: Client, jobs: list[str] | None, every: bool, namespace: str | None, as_json: bool, change: Callable[[str], Job]
) -> None:
    """Change the jobs that are named, or every one of a namespace. What is refused does not keep the others."""
    if bool(jobs) == every:
        raise typer.BadParameter("name jobs, or give --all")
    if every:
        jobs = [letter["job_id"] for letter in client.dead_letters(namespace=namespace, limit=MOST)["dead_letters"]]
    failed = False
    for name in jobs or []:
        try:
            job = change(name)
        except Refused as error:
            complain(error)
            failed = True
            continue
        if as_json:
            print_json(job)
        else:
            out.print(f"{name}: {job.status}", markup=False)
    if failed:
        raise typer.Exit(FAILED)
