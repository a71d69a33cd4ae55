"""`infold ask`: ask the model."""

import json
import sys
from typing import Annotated, Any

import typer

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, reported

app = typer.Typer()


@app.command()
def ask(
    prompt: str,
    url: Url = LOCAL,
    namespace: str = "default",
    version: Annotated[str | None, typer.Option(help="Version to ask; none: the live one.")] = None,
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
