"""`infold chat`: a conversation, each answer as it is written and with the version that wrote it."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from infold import BadRequest, Client, Turn
from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, err, print_json, server

app = typer.Typer()
Messages = list[dict[str, str]]


@app.command()
def chat(
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    version: Annotated[str | None, typer.Option(help="Version to talk to; none: whichever is live at each turn.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer, at most; none: as many as fit.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Talk with the model: a line is a turn. Ctrl-C stops an answer, Ctrl-D ends."""
    with server(url, api_key) as client:
        name, _, _ = client.models()[0].partition(":")
        model = f"{name}:{namespace or client.access()['namespace']}" + (f"@{version}" if version else "")
        told: Messages = [{"role": "system", "content": system}] if system else []
        said: Messages = []
        for line in _lines():
            said.append({"role": "user", "content": line})
            text, last = "", None
            with suppress(KeyboardInterrupt):
                for last in _turns(client, told, said, model, max_tokens, temperature):
                    text += last.text
                    if not as_json:
                        sys.stdout.write(last.text)
                        sys.stdout.flush()
            said.append({"role": "assistant", "content": text})
            answered = last.version if last else ""
            if as_json:
                print_json({"text": text, "version": answered, "finish_reason": last.finish_reason if last else None})
            else:
                sys.stdout.write("\n")
                sys.stdout.flush()
                err.print(f"[dim]{answered}[/dim]")


def _lines() -> Iterator[str]:
    """What is typed, or comes through a pipe, without empty lines."""
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401 (arrows and history for `input`)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            line = input("> " if typed else "")
            if line.strip():
                yield line


def _turns(
    client: Client, told: Messages, said: Messages, model: str, max_tokens: int | None, temperature: float
) -> Iterator[Turn]:
    """The next turn. What no longer fits into the model's context is forgotten, from the beginning of the conversation on."""
    while True:
        try:
            yield from client.chat(told + said, model=model, max_tokens=max_tokens, temperature=temperature)
            return
        except BadRequest as error:
            if error.param not in ("messages", "max_tokens") or len(said) < 3:
                raise
            del said[:2]
