"""What the command line says to a running server.

Covered: one request at a time, errors as the server words them. Not covered: retries, async.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2

from service.errors import ServiceError


class ServerRefused(ServiceError):
    """The server answered with an error, or does not answer."""


class Client:
    """A connection to one server."""

    def __init__(self, url: str, timeout: float = 660) -> None:
        self._http = httpx2.Client(base_url=url, timeout=timeout)
        self._url = url

    def get(self, path: str, **query: Any) -> Any:
        """GET as JSON. Raises ServerRefused."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON, answer as JSON. Raises ServerRefused."""
        return self._call("POST", path, json=body)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """POST JSON, answer as server-sent events. Raises ServerRefused."""
        try:
            with self._http.stream("POST", path, json=body) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    self._refuse(answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx2.TransportError as error:
            raise self._away(error) from error

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, path, **more)
        except httpx2.TransportError as error:
            raise self._away(error) from error
        if answer.status_code >= 400:
            self._refuse(answer)
        return answer.json()

    def _away(self, error: Exception) -> ServerRefused:
        return ServerRefused(f"no infold server answers at {self._url} ({error}); start one with `infold serve`")

    def _refuse(self, answer: httpx2.Response) -> None:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.text[:200]
        raise ServerRefused(f"{answer.status_code}: {message}")
