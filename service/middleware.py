"""What every request passes before a route sees it: a bound on its body, and a name of its own; and what every answer says."""

import asyncio
import re
import uuid

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, TooLarge, TooSlow
from service.gate import refuse

_USABLE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer, unless it says otherwise: what it holds is not for other sites, nor for caches."""


class BodyLimit:
    """Refuses bodies that are over a limit or too slow while they arrive, before anything parses them."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        """limit: bytes; a key may have less. seconds: for all of a body."""
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            await refuse(TooSlow(f"the body did not arrive within {self._seconds:g} s"), scope, receive, send)
            return
        except ServiceError as error:
            await refuse(error, scope, receive, send)
            return
        if body is None:
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None: its client has gone. Raises TooLarge."""
        key = scope.get("api_key")
        limit = self._limit if key is None else min(self._limit, key.max_body_bytes or self._limit)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, more, size = bytearray(), True, int(declared) if declared.isdigit() else 0
        while more and size <= limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more, size = message.get("more_body", False), len(body)
        if size > limit:
            raise TooLarge(f"the body is over the limit of {limit} bytes")
        return bytes(body)


class HeadAsGet:
    """Answers HEAD as GET, without the body: probes ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def bodiless(message: Message) -> None:
            nonlocal ended
            if message["type"] != "http.response.body":
                await send(message)
            elif not ended:
                ended = True
                await send({"type": "http.response.body"})

        await self._app(dict(scope, method="GET"), receive, bodiless)


class SecurityHeaders:
    """Says with every answer what browsers and caches may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured)


class RequestId:
    """Names each request, as its client does in `x-request-id` or else by itself: in the answer, and in what is logged then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex

        scope["request_id"] = name  # for answers that are made outside of here

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=name):
            await self._app(scope, receive, named)
