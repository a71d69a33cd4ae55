"""One call from its first attempt to its answer: what is sent, what comes of it, and whether and when to try again.

Covered: everything that needs no connection, so that the synchronous and the asynchronous client share it. Not covered:
sending, sleeping (`client.py`).
"""

import json
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from infold.calls import Call, Request, Stream
from infold.errors import InfoldError, Refused, TooMany, Unavailable, UnexpectedAnswer, Unreachable, refusal

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0
"""Seconds between attempts: each twice as long as the one before, and up to a half shorter by chance."""
LONGEST_CONNECT = 10.0
_SURELY_NOTHING = (TooMany, httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""After these the server has done nothing."""
_PERHAPS = (Unavailable, Unreachable, httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError)
"""After these nobody knows."""
ERRORS = (InfoldError, httpx2.RequestError, httpx2.InvalidURL)
"""What an attempt can end with, for `pause`."""


class Exchange:
    """Of one request with one server."""

    def __init__(self, url: str, request: Request, timeout: float, patience: float) -> None:
        """timeout: seconds for one answer, beside what the server is asked to wait. patience: seconds in which to try again."""
        self._url, self._request, self._patience = url, request, patience
        self._timeout = httpx2.Timeout(timeout + request.wait, connect=min(timeout, LONGEST_CONNECT))
        self._failures, self._until = 0, time.monotonic() + patience
        self._last_event: str | None = None
        self._begun = False
        self.ended = False
        """Of a stream: whether its last event has come."""

    def sent(self) -> dict[str, Any]:
        """What to hand to an httpx2 client."""
        request, headers = self._request, dict(self._request.headers)
        if self._last_event is not None:
            headers["Last-Event-ID"] = self._last_event
        sent = {"method": request.method, "url": self._url + request.path, "params": request.query or None, "headers": headers}
        return sent | {"json": request.body, "timeout": self._timeout}

    def read(self, call: Call[T], response: httpx2.Response) -> T:
        """The answer. Raises InfoldError."""
        if response.is_error:
            raise self.refused(response)
        try:
            return call.read(response)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._other() from error

    def refused(self, response: httpx2.Response) -> Refused:
        """The error that a response, whose body has been read, is."""
        try:
            error = response.json()["error"]
            message, code, param = str(error["message"]), str(error["code"]), error.get("param")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, code, param = " ".join(response.text[:200].split()) or response.reason_phrase, "", None
        return refusal(message, response.status_code, code, param, _seconds(response.headers.get("retry-after")))

    def begin(self, response: httpx2.Response) -> None:
        """A stream begins. Raises InfoldError."""
        if response.is_error:
            raise self.refused(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise self._other()

    def take(self, stream: Stream[T], event: httpx2.ServerSentEvent) -> T | None:
        """What an event of a stream says. Raises InfoldError."""
        if stream.ends is None:  # it goes on from here, as if it had begun here
            self._last_event, self._failures, self._until = event.id, 0, time.monotonic() + self._patience
        self._begun = stream.ends is not None
        try:
            if event.data.startswith('{"error":'):
                error = json.loads(event.data)["error"]
                raise refusal(str(error["message"]), None, str(error["code"]), error.get("param"))
            item = stream.read(event)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._other() from error
        self.ended = stream.ends is not None and stream.ends(item)
        return item

    def end(self, stream: Stream[T]) -> None:
        """A stream has ended. Raises Unreachable if that was not its end."""
        if stream.ends is not None and not self.ended:
            raise Unreachable(f"the answer from {self._url} broke off")
        self.ended = True

    def pause(self, error: Exception) -> float:
        """Seconds until the next attempt after an error of httpx2's or ours; raises it, as ours, if there is to be none."""
        ours = error if isinstance(error, InfoldError) else self._away(error)
        again = not self._begun and (
            isinstance(error, _SURELY_NOTHING) or (self._request.repeatable and isinstance(error, _PERHAPS))
        )
        told = ours.retry_after if isinstance(ours, Refused) else None
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self._failures) * random.uniform(0.5, 1)
        if told is not None:
            pause = told + random.uniform(0, 0.1) * told
        self._failures += 1
        if not again or time.monotonic() + pause > self._until:
            raise ours from (None if ours is error else error)
        return pause

    def _away(self, error: Exception) -> Unreachable:
        return Unreachable(f"no infold server answers at {self._url} ({error or type(error).__name__})")

    def _other(self) -> UnexpectedAnswer:
        return UnexpectedAnswer(f"what answers at {self._url} is no infold server")


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After, which is a number or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
