"""`infold keys create | list | revoke`: who may ask the server, and for what."""

from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape

from service.commands.common import LOCAL, AsJson, Key, Url, err, out, print_json, print_wide, server, table

app = typer.Typer(
    name="keys",
    help="API keys: make one, see all, revoke one. The key that is sent must have the scope admin.",
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
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: it is shown this once."""
    with server(url, api_key) as client:
        made = client.create_key(name, scope, namespaces=namespace or None, rate=rate, max_body_bytes=max_body_bytes)
    if as_json:
        print_json(made)
        return
    err.print(f"key {made['id']} for {escape(name)}; it is shown this once:")
    out.print(made["key"], markup=False)


@app.command("list")
def list_(url: Url = LOCAL, api_key: Key = None, as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    with server(url, api_key) as client:
        found = client.api_keys()
    if as_json:
        print_json(found)
        return
    rows = table("id", "name", "scopes", "namespaces", "requests a minute", "bytes a request", "created")
    for key in found:
        bound = "all" if key["namespaces"] is None else ", ".join(key["namespaces"])
        when = datetime.fromtimestamp(key["created"]).astimezone().isoformat(" ", "seconds")
        limits = ("" if key[name] is None else str(key[name]) for name in ("rate", "max_body_bytes"))
        rows.add_row(key["id"], escape(key["name"]), ", ".join(key["scopes"]), bound, *limits, when)
    print_wide(rows)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key.")], url: Url = LOCAL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Refuse a key from now on."""
    with server(url, api_key) as client:
        revoked = client.revoke_key(key)
    if as_json:
        print_json({"revoked": revoked})
    else:
        out.print(f"revoked {revoked}", markup=False)
