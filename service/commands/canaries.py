"""`infold canaries list | add | remove`: questions whose answers must not change."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, err, out, reported
from service.errors import ServiceError

app = typer.Typer()
canaries = typer.Typer(help="Questions whose answers must not change.", no_args_is_help=True)
app.add_typer(canaries, name="canaries")


@canaries.command("list")
def listed(url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """All canaries, and whether they count."""
    with reported():
        _show(Client(url).get("/canaries", namespace=namespace)["canaries"], as_json)


@canaries.command()
def add(
    file: Annotated[str, typer.Argument(help='JSONL: {"prompt", "answer"} a line; - for standard input.')],
    url: Url = LOCAL,
    namespace: str = "default",
    as_json: AsJson = False,
) -> None:
    """Add canaries, and ask them of the live version."""
    with reported():
        body = {"canaries": _read(file), "namespace": namespace}
        with err.status("asking the live version"):
            found = Client(url).post("/canaries", body)["canaries"]
        _show(found, as_json)


@canaries.command()
def remove(
    canary: Annotated[str | None, typer.Argument(help="Id of one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all.")] = False,
    url: Url = LOCAL,
    namespace: str = "default",
) -> None:
    """Remove one canary, or all."""
    with reported():
        if (canary is None) == (not every):
            raise ServiceError("give the id of one canary, or --all")
        query = {"namespace": namespace} | ({} if canary is None else {"id": canary})
        out.print(f"removed {Client(url).delete('/canaries', **query)['removed']}")


def _read(name: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ServiceError(f"{name} is not UTF-8 text: {error}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ServiceError(f"line {number} of {name} is not JSON: {error}") from error
        if not isinstance(found[-1], dict) or set(found[-1]) != {"prompt", "answer"}:
            raise ServiceError(f'line {number} of {name} must be {{"prompt": ..., "answer": ...}} and no more')
    if not found:
        raise ServiceError(f"there is no canary in {name}")
    return found


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table(Column("id", no_wrap=True), "prompt", "answer", "counts", "holds now")
    marks = {True: "yes", False: "no", None: ""}
    for one in found:
        table.add_row(one["id"], escape(one["prompt"]), escape(one["answer"]), marks[one["counts"]], marks[one.get("holds")])
    out.print(table)
