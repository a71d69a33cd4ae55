"""The HTTP application: routes, error answers, life cycle."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from adapters.errors import AdapterError
from infold import __version__
from service.canary_watch import CanaryWatch
from service.errors import ServiceError, StoreUnavailable, error_body, error_of, status_of
from service.gate import Gate, check_exposure
from service.middleware import SECURITY_HEADERS, BodyLimit, HeadAsGet, RequestId, SecurityHeaders
from service.rates import Rates
from service.routes import audit, canaries, dead_letters, documents, generate, health, keys, learn, openai, page, versions
from service.runtime import Runtime
from service.settings import Settings
from service.traces import Traced

log = structlog.get_logger()
_TYPES = {"str", "int", "float", "bool"}


def create_app(settings: Settings) -> FastAPI:
    """The application over one runtime, which holds the data directory from now on and lives from start-up to shutdown.

    Raises:
        DataDirectoryBusy: another server uses it.
        InvalidSettings: the URL of Redis is none; or others could reach a server that asks nobody for a key.
    """
    check_exposure(settings)
    runtime = Runtime(settings)
    canary_watch = CanaryWatch(runtime)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        watching = asyncio.create_task(canary_watch.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await runtime.stop()

    app = FastAPI(
        title="infold", version=__version__, lifespan=lifespan, description="An LLM server that keeps learning while it serves.",
        redirect_slashes=False,  # to whatever host the client has named
        docs_url=None, redoc_url=None,  # they run scripts of another site, which our answers forbid
    )  # fmt: skip
    app.state.runtime, app.state.canary_watch = runtime, canary_watch
    for module in (learn, dead_letters, generate, openai, documents, versions, canaries, keys, audit, health, page):
        app.include_router(module.router)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, seconds=settings.receive_seconds)
    app.add_middleware(Gate, api_keys=runtime.api_keys, rates=Rates(runtime.redis), settings=settings)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(HeadAsGet)
    if runtime.traces.on:
        app.add_middleware(Traced, traces=runtime.traces)
    app.add_middleware(RequestId)  # outermost, so that every answer has one
    for error in (ServiceError, AdapterError, RedisError):
        app.add_exception_handler(error, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)
    return app


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RedisError):
        error = StoreUnavailable(f"Redis does not answer: {error}", retry_after=2)
    status = status_of(error)
    retry = getattr(error, "retry_after", None)
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse(error_of(error), status, headers)


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid" or (first["loc"] == ("body",) and first["type"] != "value_error"):
        message = "the body must be a JSON object, sent with content-type application/json"
        return JSONResponse(error_body(400, message, "invalid_request"), 400)
    where = ".".join(_named(first["loc"][1:]))
    reason = str(first["msg"]).removeprefix("Value error, ")
    return JSONResponse(error_body(400, f"{where}: {reason}" if where else reason, "invalid_request", where or None), 400)


def _named(inside: Sequence[str | int]) -> Iterator[str]:
    """The names on the way to a field: what follows them says which of several types was tried."""
    return takewhile(lambda part: part not in _TYPES and re.fullmatch(r"[\w-]+", part), map(str, inside))


async def _answer_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.status_code, str(error.detail), "http_error"), error.status_code, error.headers)


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected error", path=request.url.path, error=type(error).__name__, request_id=request.scope.get("request_id"))
    name = request.scope.get("request_id", "")
    closing = SECURITY_HEADERS | {
        "Connection": "close",
        "x-request-id": name,
    }  # uvicorn closes it now: the client must not send more on it
    return JSONResponse(error_body(500, "an error of ours; the server's log has it", "internal_error"), 500, closing)
