"""`infold keys create | list | revoke`: who may ask the server, and for what."""

import json
import sys
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Column, Table

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, err, out, reported

app = typer.Typer(
    name="keys",
    help="API keys: make one, see all, revoke one. INFOLD_API_KEY must hold one with the scope admin.",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for: the audit log names it.")],
    scope: Annotated[list[str], typer.Option(help="generate, learn, metrics or admin; may be repeated.")],
    namespace: Annotated[list[str] | None, typer.Option(help="All that it may touch; may be repeated. None: everything.")] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(min=1, help="Of one request.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: it is shown this once."""
    body: dict[str, Any] = {"name": name, "scopes": scope, "namespaces": namespace or None}
    with reported():
        made = Client(url).post("/keys", body | {"rate": rate, "max_body_bytes": max_body_bytes})
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
        return
    err.print(f"key {made['id']} for {escape(name)}; it is shown this once:")
    out.print(made["key"], markup=False)


@app.command("list")
def list_(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    with reported():
        found = Client(url).get("/keys")["keys"]
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table(Column("id", no_wrap=True), "name", "scopes", "namespaces", "requests a minute", "bytes a request", "created")
    for key in found:
        bound = "all" if key["namespaces"] is None else ", ".join(key["namespaces"])
        when = datetime.fromtimestamp(key["created"]).astimezone().isoformat(" ", "seconds")
        limits = ("" if key[name] is None else str(key[name]) for name in ("rate", "max_body_bytes"))
        table.add_row(key["id"], escape(key["name"]), ", ".join(key["scopes"]), bound, *limits, when)
    out.print(table)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="Id of the key.")], url: Url = LOCAL) -> None:
    """Refuse a key from now on."""
    with reported():
        revoked = Client(url).delete(f"/keys/{quote(key, safe='')}")["revoked"]
        out.print(f"revoked {revoked}", markup=False)
