"""What the commands share: where they print, how they fail, the options that several have.

Answers go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed, 2 misused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from adapters.errors import AdapterError
from service.errors import ServiceError

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

Url = Annotated[str, typer.Option(envvar="INFOLD_URL", help="Address of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LOCAL = "http://127.0.0.1:8000"


@contextmanager
def reported() -> Iterator[None]:
    """Errors of ours in one line, without a traceback."""
    try:
        yield
    except (ServiceError, AdapterError, OSError) as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(1) from None
