"""What the command line says to a running server.

Covered: one request at a time, errors as the server words them. Not covered: retries, async.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2

from service.errors import ServiceError
from service.settings import client_key


class ServerRefused(ServiceError):
    """The server answered with an error, or does not answer."""


class Client:
    """One server, by its address; each call is a connection of its own."""

    def __init__(self, url: str, timeout: float = 660) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout
        key = client_key()
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def get(self, path: str, **query: Any) -> Any:
        """GET as JSON. Raises ServerRefused."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON, answer as JSON. Raises ServerRefused."""
        return self._call("POST", path, json=body)

    def delete(self, path: str, **query: Any) -> Any:
        """DELETE, answer as JSON. Raises ServerRefused."""
        return self._call("DELETE", path, params=query)

    def download(self, path: str, body: dict[str, Any]) -> bytes:
        """POST JSON, answer as a zip archive. Raises ServerRefused."""
        answer = self._answer("POST", path, json=body)
        if answer.headers.get("content-type") != "application/zip":
            raise self._other()
        content: bytes = answer.content
        return content

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """POST JSON, answer as server-sent events. Raises ServerRefused."""
        try:
            with httpx2.stream("POST", self._url + path, json=body, headers=self._headers, timeout=self._timeout) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    self._refuse(answer)
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    raise self._other()
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        event = json.loads(line.removeprefix("data:"))
                        if "error" in event:
                            raise ServerRefused(event["error"]["message"])
                        yield event
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise self._away(error) from error

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            return self._answer(method, path, **more).json()
        except ValueError as error:
            raise self._other() from error

    def _answer(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            answer = httpx2.request(method, self._url + path, headers=self._headers, timeout=self._timeout, **more)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise self._away(error) from error
        if answer.status_code >= 400:
            self._refuse(answer)
        return answer

    def _away(self, error: Exception) -> ServerRefused:
        return ServerRefused(f"no infold server answers at {self._url} ({error}); start one with `infold serve`")

    def _other(self) -> ServerRefused:
        return ServerRefused(f"what answers at {self._url} is no infold server")

    def _refuse(self, answer: httpx2.Response) -> None:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = " ".join(answer.text[:200].split())
        raise ServerRefused(f"{answer.status_code}: {message}")
