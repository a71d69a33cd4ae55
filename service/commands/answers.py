"""`infold ask | blame`: ask the model, and see which documents its answer comes from."""

import sys
from typing import Annotated, Any

import typer

from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, out, print_json, print_wide, server, table

app = typer.Typer()

Version = Annotated[str | None, typer.Option(help="Version to ask; none: the live one.")]


@app.command()
def ask(
    prompt: str,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    version: Version = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    as_json: AsJson = False,
) -> None:
    """Ask the model; its answer comes as it is written."""
    how: Any = {"namespace": namespace, "version": version, "max_new_tokens": max_new_tokens, "temperature": temperature}
    with server(url, api_key) as client:
        if as_json:
            print_json(client.generate(prompt, **how))
            return
        for piece in client.stream(prompt, **how):
            sys.stdout.write(piece.text)
            sys.stdout.flush()
        sys.stdout.write("\n")


@app.command()
def blame(
    prompt: str,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    version: Version = None,
    max_new_tokens: int = 64,
    top: Annotated[int, typer.Option(min=1, max=10, help="Sources to show, at most.")] = 3,
    as_json: AsJson = False,
) -> None:
    """The model's answer, and the learned documents that raised it most."""
    with server(url, api_key) as client:
        found = client.generate(prompt, namespace=namespace, version=version, max_new_tokens=max_new_tokens, explain=True)
    sources = (found.sources or [])[:top]
    if as_json:
        print_json(found.model_copy(update={"sources": sources}))
        return
    out.print(found.text, markup=False)
    if not sources:
        out.print("(no learned document raised this answer)")
        return
    rows = table("document", "version", "score (nats)")
    for source in sources:
        rows.add_row(source.document_id, source.version, f"{source.score:.2f}")
    print_wide(rows)
