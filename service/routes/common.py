"""What every route starts from."""

from typing import Annotated

from fastapi import Depends, Request

from service.runtime import Runtime


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(_runtime)]
"""The running server."""
