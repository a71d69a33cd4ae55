"""HTTP/1.1 on a socket, bounded: how long the head of a request may take to arrive, and how large it may be.

uvicorn bounds neither: a client could send one byte of a header now and then for ever, or a header without an end.

Covered: the socket to listen on, heads, what is no HTTP. Not covered: bodies (`middleware.py`), answers that are read slowly.
"""

import asyncio
import socket
from functools import partial
from typing import Any

from pydantic_core import to_json
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ServiceError, error_body
from service.middleware import SECURITY_HEADERS
from service.settings import Settings

MOST_HEAD_BYTES = 65_536
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class TooLong(Exception):
    """A head is over the limit: httptools ends what it parses with it."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *of_uvicorn: Any, seconds: float, **more: Any) -> None:
        super().__init__(*of_uvicorn, **more)
        self._seconds = seconds
        self._head: int | None = None
        """Bytes of the head that is arriving; None: none is."""
        self._too_long = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._head_begins()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._head_ends()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of what it sends."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head is None and self._idle and self.timeout_keep_alive_task is None:  # it sent something, and no request yet
            self._head_begins()
        if self._head is not None:
            self._head += len(data)  # what is parsed is counted below, and more exactly; this is for a header that does not end
            if self._head > 2 * MOST_HEAD_BYTES:
                self._refuse(431, _TOO_LONG)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._head_begins()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_ends()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP, in the form of all errors."""
        self._refuse(431, _TOO_LONG) if self._too_long else self._refuse(400, msg)

    def _count(self, size: int) -> None:
        if self._head is not None:
            self._head += size
            if self._head > MOST_HEAD_BYTES:
                self._too_long = True
                raise TooLong

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _head_begins(self) -> None:
        self._head = 0
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._refuse, 408, "the request did not arrive in time")

    def _head_ends(self) -> None:
        self._head = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up, unless another answer is on its way: then only hang up."""
        self._head_ends()
        if self._idle or not self.cycle.response_started:
            body = to_json(error_body(status, message, "invalid_http"))
            headers = SECURITY_HEADERS | {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items())]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


_TOO_LONG = f"the head of a request may have {MOST_HEAD_BYTES} bytes"


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, before anything else is begun. Raises ServiceError: the port is taken, or the address is not ours."""
    listening = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ServiceError(f"{host}:{port} cannot be listened on: {error.strerror}; name another --port or --host") from error
    return listening


def server_config(app: Any, settings: Settings) -> Config:
    """How uvicorn serves the application."""
    bounded: Any = partial(BoundedProtocol, seconds=settings.receive_seconds)
    return Config(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False, server_header=False, proxy_headers=False,
        loop="asyncio", http=bounded, ws="none",  # uvloop was seen to hang after a restart on the same data directory
        timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
    )  # fmt: skip
