"""What every route starts from."""

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic_core import to_json

from service.runtime import Runtime


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(_runtime)]
"""The running server."""


def event(data: Any) -> bytes:
    """A server-sent event. JSON in one line needs no further care, and an event a token should cost little."""
    return b"data: " + to_json(data) + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"
"""OpenAI's end of a stream."""
