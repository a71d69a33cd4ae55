"""What the commands share: where they print, how they reach a server, how they fail, the options that several have.

Answers go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed, 2 misused, 3 no server answers.
"""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from adapters.errors import AdapterError
from infold import Client, Forbidden, InfoldError, Refused, Unauthorized, Unreachable
from service.errors import ServiceError

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
_unbounded = Console(highlight=False, soft_wrap=True, width=100_000)

Url = Annotated[str, typer.Option(envvar="INFOLD_URL", help="Address of the server.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="INFOLD_API_KEY", help="Key, if the server asks for one.")]
Namespace = Annotated[str | None, typer.Option(help="Of the server; none: the only one that the key sees, else `default`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _seconds(value: float) -> float:
    if not 0 <= value < math.inf:  # NaN is neither
        raise typer.BadParameter("seconds are a number that is not below 0")
    return value


Wait = Annotated[float, typer.Option(callback=_seconds, help="Seconds to wait for the end; 0: only queue it.")]
LOCAL = "http://127.0.0.1:8000"
FAILED, UNREACHABLE = 1, 3
LONGEST_ANSWER_SECONDS = 660
"""The server itself waits for at most 600."""


@contextmanager
def reported() -> Iterator[None]:
    """Errors of ours in one line, without a traceback."""
    try:
        yield
    except (InfoldError, ServiceError, AdapterError, OSError) as error:
        complain(error)
        raise typer.Exit(UNREACHABLE if isinstance(error, Unreachable) else FAILED) from None


@contextmanager
def server(url: str, key: str | None, patience: float = 0) -> Iterator[Client]:
    """A client of the server; errors are reported. patience: seconds in which to try again."""
    with reported(), Client(url, api_key=key, timeout=LONGEST_ANSWER_SECONDS, patience=patience) as client:
        yield client


def complain(error: Exception, about: str = "") -> None:
    """Say what is wrong, in one line."""
    err.print(f"[red]error:[/red] {escape(about)}{escape(in_words(error))}")


def in_words(error: Exception) -> str:
    """An error, and what to do about it."""
    if isinstance(error, Unreachable):
        return f"{error}; start one with `infold serve`"
    if isinstance(error, Unauthorized):
        return f"{error.status}: {error}; give --api-key, or set INFOLD_API_KEY"
    if isinstance(error, Forbidden):
        return f"{error.status}: {error}; ask whoever runs the server for a key that may"
    return f"{error.status}: {error}" if isinstance(error, Refused) else str(error)


def table(*columns: str, title: str | None = None) -> Table:
    """A table that cuts nothing off: what has no room goes on in the next line."""
    made = Table(title=title, title_justify="left")
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def print_wide(tables: RenderableType) -> None:
    """Print tables: within a terminal, or as wide as they are for whoever reads a pipe or a file."""
    (out if out.is_terminal else _unbounded).print(tables)


def print_json(value: Any) -> None:
    """One value in one line, as the server sent it."""
    sys.stdout.write(json.dumps(_plain(value)) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return [_plain(one) for one in value] if isinstance(value, list) else value
