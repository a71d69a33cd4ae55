"""A real HTTP server that answers what a test tells it to, in order, and keeps what it was asked."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Script:
    """What to answer: status, body and headers each; None: hang up without a word. The last one is repeated."""

    answers: list[tuple[int, Any, dict[str, str]] | None]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    def next(self) -> tuple[int, Any, dict[str, str]] | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def error(status: int, code: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """An answer as infold words its errors."""
    return status, {"error": {"message": f"because of {code}", "type": "", "param": None, "code": code}}, headers


def ok(body: Any) -> tuple[int, Any, dict[str, str]]:
    return 200, body, {}


@contextmanager
def scripted(*answers: tuple[int, Any, dict[str, str]] | None) -> Iterator[Script]:
    """The server."""
    script = Script(list(answers))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(script))
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answering(script: Script) -> Callable[..., BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append(Asked(self.command, self.path, headers, json.loads(raw) if raw else None))
            self.close_connection = True
            answer = script.next()
            if answer is None:
                return
            status, body, headers = answer
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Page
