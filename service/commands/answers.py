"""`infold ask | blame`: ask the model, and see which documents its answer comes from."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, out, reported

app = typer.Typer()

Version = Annotated[str | None, typer.Option(help="Version to ask; none: the live one.")]


@app.command()
def ask(
    prompt: str,
    url: Url = LOCAL,
    namespace: str = "default",
    version: Version = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    as_json: AsJson = False,
) -> None:
    """Ask the model; its answer comes as it is written."""
    body: dict[str, Any] = {"prompt": prompt, "namespace": namespace, "max_new_tokens": max_new_tokens, "temperature": temperature}
    if version:
        body["version"] = version
    with reported():
        if as_json:
            sys.stdout.write(json.dumps(Client(url).post("/generate", body)) + "\n")
            return
        for event in Client(url).stream("/generate", body | {"stream": True}):
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        sys.stdout.write("\n")


@app.command()
def blame(
    prompt: str,
    url: Url = LOCAL,
    namespace: str = "default",
    version: Version = None,
    max_new_tokens: int = 64,
    top: Annotated[int, typer.Option(min=1, max=10, help="Sources to show, at most.")] = 3,
    as_json: AsJson = False,
) -> None:
    """The model's answer, and the learned documents that raised it most."""
    body: dict[str, Any] = {"prompt": prompt, "namespace": namespace, "max_new_tokens": max_new_tokens, "explain": True}
    with reported():
        found = Client(url).post("/generate", body | ({"version": version} if version else {}))
    sources = found["sources"] = found["sources"][:top]
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    out.print(found["text"], markup=False)
    if not sources:
        out.print("(no learned document raised this answer)")
        return
    table = Table("document", "version", "score (nats)")
    for source in sources:
        table.add_row(source["document_id"], source["version"], f"{source['score']:.2f}")
    out.print(table)
