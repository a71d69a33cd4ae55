"""`infold canaries list | add | remove`: questions whose answers must not change."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from infold import Canary
from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, err, out, print_json, print_wide, server, table
from service.errors import ServiceError

app = typer.Typer()
canaries = typer.Typer(help="Questions whose answers must not change.", no_args_is_help=True)
app.add_typer(canaries, name="canaries")


@canaries.command("list")
def listed(url: Url = LOCAL, api_key: Key = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """All canaries, and whether they count."""
    with server(url, api_key) as client:
        _show(client.canaries(namespace=namespace), as_json)


@canaries.command()
def add(
    file: Annotated[str, typer.Argument(help='JSONL: {"prompt", "answer"} a line; - for standard input.')],
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Add canaries, and ask them of the live version."""
    with server(url, api_key) as client:
        wanted = _read(file)
        with err.status("asking the live version"):
            found = client.add_canaries(wanted, namespace=namespace)
        _show(found, as_json)


@canaries.command()
def remove(
    canary: Annotated[str | None, typer.Argument(help="Id of one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all.")] = False,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Remove one canary, or all."""
    if (canary is None) == (not every):
        raise typer.BadParameter("give the id of one canary, or --all")
    with server(url, api_key) as client:
        removed = client.remove_canaries(canary, namespace=namespace)
    if as_json:
        print_json({"removed": removed})
    else:
        out.print(f"removed {removed}")


def _read(name: str) -> list[tuple[str, str]]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ServiceError(f"{name} is not UTF-8 text: {error}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
        except json.JSONDecodeError as error:
            raise ServiceError(f"line {number} of {name} is not JSON: {error}") from error
        if not isinstance(one, dict) or set(one) != {"prompt", "answer"}:
            raise ServiceError(f'line {number} of {name} must be {{"prompt": ..., "answer": ...}} and no more')
        found.append((one["prompt"], one["answer"]))
    if not found:
        raise ServiceError(f"there is no canary in {name}")
    return found


def _show(found: list[Canary], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = table("id", "prompt", "answer", "counts", "holds now")
    marks = {True: "yes", False: "no", None: ""}
    for one in found:
        rows.add_row(one.id, escape(one.prompt), escape(one.answer), marks[one.counts], marks[one.holds])
    print_wide(rows)
