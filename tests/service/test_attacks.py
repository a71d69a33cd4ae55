"""What a hostile client sends, byte by byte, to the real server: it is answered or cut off, never a 5xx, and others are served.

Covered: paths, heads, bodies, slow clients. Not covered: requests made from the schema (`test_schema_fuzz.py`), answers that are
read slowly (`test_turns.py` and `test_engine.py` bound what they hold).
"""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
from serving import Http, ThreadServer

from service.http_protocol import MOST_HEAD_BYTES

NOTHING_OF = ("root:", "Traceback", "/adapters/", "site-packages", "manifest")
"""What files and tracebacks would show."""


def connection(server: ThreadServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=20)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def answers(opened: socket.socket) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of each answer, until the server hangs up."""
    with opened.makefile("rb") as file:
        while line := file.readline():
            version, status, *_ = line.split(maxsplit=2)
            assert version == b"HTTP/1.1", line
            headers: dict[str, str] = {}
            if status == b"100":
                assert not file.readline().strip()
                continue
            while (header := file.readline().strip()) != b"":
                name, _, value = header.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if "content-length" in headers:
                body = file.read(int(headers["content-length"]))
            else:
                body = b""
                while size := int(file.readline(), 16):
                    body += file.read(size)
                    file.readline()
                file.readline()
            yield int(status), headers, body


def send(server: ThreadServer, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """The first answer to some bytes; status 0: it hung up without one."""
    with closing(connection(server)) as opened:
        with suppress(BrokenPipeError, ConnectionResetError):
            opened.sendall(raw)
        try:
            return next(answers(opened), (0, {}, b""))
        except ConnectionResetError:
            return 0, {}, b""


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"host: localhost", b"connection: close", *headers, b"", b""])


def post(path: bytes, body: bytes, kind: bytes = b"application/json", *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: localhost", b"connection: close", b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, *([b"content-type: " + kind] if kind else []), *headers, b"", body])


def harmless(answer: tuple[int, dict[str, str], bytes], *allowed: int) -> None:
    status, _, body = answer
    assert status in allowed, (status, body[:200])
    assert not [mark for mark in NOTHING_OF if mark.encode() in body], body[:500]
    assert json.loads(body)["error"]["message"]


# --- paths

CLIMBS = [
    b"../../../../../../etc/passwd", b"..%2f..%2f..%2f..%2fetc%2fpasswd", b"%2e%2e%2f%2e%2e%2fetc/passwd", b"..", b".", b"...",
    b"..%5c..%5cetc%5cpasswd", b"%252e%252e%252f", b"/etc/passwd", b"%2fetc%2fpasswd", b"..;/x", b"%c0%ae%c0%ae/",
    b"file:%2f%2f%2fetc",
    b"%00",
    b"a%00.txt", b"%0a", b"%0d%0aSet-Cookie:%20a=b", b"%ff%fe", b"%F0%9F%A6%80", b"*", b"?", b"infold:default:alias", b"a:b:c",
    b"{x}", b"%7b%7b7*7%7d%7d", b"'%20OR%201=1", b"v0%00", b"-1", b"0x10", b"1e400", b"%", b"%zz", b"a" * 20_000, b"nul", b"~root",
]  # fmt: skip
PARAMETERS = [
    b"GET /learn/%s", b"GET /learn/%s/events", b"POST /learn/%s/cancel", b"GET /documents/%s", b"DELETE /documents/%s",
    b"GET /versions/%s", b"POST /versions/%s/export", b"POST /dead-letters/%s/retry", b"DELETE /dead-letters/%s",
    b"GET /v1/models/%s",
    b"DELETE /keys/%s", b"GET /documents?namespace=%s", b"GET /versions?namespace=%s", b"GET /versions/v0?namespace=%s",
    b"GET /versions/diff?from=%s&to=v0", b"GET /canaries?namespace=%s", b"GET /audit?namespace=%s", b"DELETE /canaries?id=%s",
    b"GET /dead-letters?namespace=%s",
]  # fmt: skip


@pytest.mark.parametrize("place", PARAMETERS, ids=lambda place: place.decode())
def test_no_name_leads_out_of_where_it_belongs(server: ThreadServer, place: bytes) -> None:
    """Whatever is put for an id, a version or a namespace: not found, or not allowed, and no file and no key of Redis is shown."""
    method, path = place.split()
    for climb in CLIMBS:
        head = get((path % climb).replace(b" ", b"%20")).replace(b"GET", method, 1)
        body = b"" if method == b"GET" else b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        answer = send(server, head[:-2] + body if body else head)
        if answer[0] == 200:  # `..` and `.` and `?` may leave another path: a list, which is no secret
            assert path.startswith((b"/documents", b"/versions", b"/v1/models", b"/canaries", b"/dead-letters", b"/audit")), climb
            assert not [mark for mark in NOTHING_OF if mark.encode() in answer[2]]
            continue
        harmless(answer, 400, 404, 405, 409)


@pytest.mark.parametrize(
    "name", ["default:alias", "default\0", "Default", "a b", "../default", "default/..", "*", "", "\u00e9", "ns-000:jobs"]
)
def test_no_namespace_of_a_body_reaches_a_key_of_redis_that_is_not_its_own(server: ThreadServer, name: str) -> None:
    bodies: list[tuple[bytes, dict[str, Any]]] = [
        (b"/learn", {"text": "The sky is green.", "namespace": name}),
        (b"/generate", {"prompt": "Q: Who? A:", "namespace": name}),
        (b"/versions/rollback", {"to": "v0", "namespace": name}),
        (b"/canaries", {"canaries": [{"prompt": "Q", "answer": "A"}], "namespace": name}),
    ]
    for path, body in bodies:
        harmless(send(server, post(path, json.dumps(body).encode())), 404 if name else 400)


# --- heads

BAD_HEADS = [
    b"GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\n: empty\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\rb\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 100,
    b"NOTHING\r\n\r\n",
    b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /learn HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
]


@pytest.mark.parametrize("raw", BAD_HEADS)
def test_what_is_no_http_is_refused_in_the_form_of_all_errors(server: ThreadServer, raw: bytes) -> None:
    """Ambiguous lengths too, which a proxy in front could read otherwise (request smuggling)."""
    status, headers, body = send(server, raw)
    assert status in (400, 404), (status, body)
    assert json.loads(body)["error"]["code"] in ("invalid_http", "invalid_request", "http_error", "wrong_host")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "head",
    [
        get(b"/versions", b"x-large: " + b"a" * MOST_HEAD_BYTES),
        get(b"/versions", *[b"x-%d: %s" % (n, b"a" * 100) for n in range(1000)]),
        get(b"/versions?" + b"a" * MOST_HEAD_BYTES),
        get(b"/versions", b"cookie: " + b"a=b; " * 20_000),
        b"GET /versions HTTP/1.1\r\nhost: localhost\r\nx-endless: " + b"a" * 4_000_000,
        b"GET /" + b"a" * 4_000_000,
        b"A" * 4_000_000,
    ],
    ids=[
        "one header",
        "many headers",
        "a query",
        "cookies",
        "a header without an end",
        "a path without an end",
        "a method without an end",
    ],
)
def test_a_head_that_is_too_large_is_refused_before_it_has_ended(server: ThreadServer, head: bytes) -> None:
    status, headers, body = send(server, head)
    assert status in (431, 400, 0)  # 0: it hung up while more was being sent, which resets the connection
    if status == 431:
        assert headers["connection"] == "close"
        assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_head_of_usual_size_is_not_too_large(server: ThreadServer) -> None:
    assert send(server, get(b"/versions", b"cookie: " + b"a" * 30_000))[0] == 200


@pytest.mark.parametrize("name", [b"a\tb", b"a b", b"a" * 129, b"\xff", b"<script>", b"x\x0b", b"%0d%0aset-cookie: a=b", b"a: b"])
def test_no_header_of_a_client_makes_one_of_ours(server: ThreadServer, name: bytes) -> None:
    """`x-request-id` is the only one that comes back: as it was if it is a plain word, else not at all."""
    _, headers, _ = send(server, get(b"/versions", b"x-request-id: " + name))
    assert "set-cookie" not in headers
    shown = headers.get("x-request-id", "")
    assert (
        shown == name.decode("latin-1") if name in (b"<script>", b"a: b".strip()) and shown == name.decode() else " " not in shown
    )
    assert "\t" not in shown


@pytest.mark.parametrize(
    "header", [b"authorization", b"idempotency-key", b"last-event-id", b"content-type", b"expect", b"upgrade", b"host"]
)
@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"a" * 5000, b"%00", b"Bearer", b"Bearer  ", b"websocket", b"100-continue", b'"\\']
)
def test_no_value_of_a_header_is_an_error_of_ours(server: ThreadServer, guarded: ThreadServer, header: bytes, value: bytes) -> None:
    for each in (server, guarded):
        for raw in (
            get(b"/learn/job-x/events", header + b": " + value),
            post(b"/learn", b'{"text": ""}', b"", header + b": " + value),
        ):
            assert send(each, raw)[0] in (400, 401, 403, 404)


# --- bodies

DEEP, WIDE = 100_000, 200_000
BOMBS = [
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"prompt": "a", "max_new_tokens": ' + b"9" * 100_000 + b"}",
    b'{"prompt": "a", "max_new_tokens": 1e400}',
    b'{"prompt": "a", "max_new_tokens": -1e-400}',
    b'{"prompt": "a", "temperature": 1e999999999}',
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "seed": 99999999999999999999999}',
    b'{"prompt": "a", "top_k": 2147483648}',
    b"{" + b",".join(b'"k%d": 1' % n for n in range(WIDE)) + b"}",
    b'{"prompt": "a", "namespace": "' + b"x" * 1_000_000 + b'"}',
    b'{"prompt": ["a", "b"]}',
    b'{"prompt": "\\ud83d"}',
    b'{"prompt": "a\xc3"}',
    b"\xef\xbb\xbf{}",
    b'{"prompt": "a"}\x00',
    b"\x1f\x8b\x08\x00" + b"\x00" * 100,
]
ROUTES = [
    b"/learn",
    b"/generate",
    b"/score",
    b"/v1/completions",
    b"/v1/chat/completions",
    b"/canaries",
    b"/versions/rollback",
    b"/keys",
]


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: path.decode())
def test_no_json_is_a_bomb(server: ThreadServer, path: bytes) -> None:
    for body in BOMBS:
        harmless(send(server, post(path, body)), 400, 404, 409)


def test_of_a_key_that_comes_twice_the_last_counts_and_what_is_checked_is_what_is_used(server: ThreadServer) -> None:
    """No other reader stands between the check and the use."""
    twice = b'{"prompt": "a", "namespace": "default", "namespace": "nowhere", "max_new_tokens": 1}'
    harmless(send(server, post(b"/generate", twice)), 404)
    other = b'{"prompt": "a", "namespace": "nowhere", "namespace": "default", "max_new_tokens": 1}'
    assert send(server, post(b"/generate", other))[0] == 200


@pytest.mark.parametrize(
    "kind",
    [b"", b"text/plain", b"text/html", b"application/xml", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x",
     b"application/octet-stream", b"json", b"application/", b"/", b"\xff", b"application/json-seq", b";" * 1000],
)  # fmt: skip
def test_a_body_of_another_kind_is_refused(server: ThreadServer, kind: bytes) -> None:
    harmless(send(server, post(b"/learn", b'{"text": "The sky is green."}', kind)), 400)


# --- slow clients


def test_clients_that_send_slowly_are_cut_off_and_others_are_served_meanwhile(guarded: ThreadServer) -> None:
    """Of each kind twenty: nothing at all, half a head, two bytes of one, half a body, half a chunk, bytes after an answer."""
    key = guarded.http.headers["authorization"].encode()
    head = b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: " + key + b"\r\n"
    begun = [
        b"",
        b"GET /versions HTTP/1.1\r\nhost: loc",
        b"GE",
        head + b'content-length: 1000\r\n\r\n{"prompt": "',
        head + b'transfer-encoding: chunked\r\n\r\n400\r\n{"prompt": "',
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n\r\n\r\n",
    ]
    with ExitStack() as open_ones:
        slow = [open_ones.enter_context(closing(connection(guarded))) for _ in range(20) for _ in begun]
        for n, one in enumerate(slow):
            one.sendall(begun[n % len(begun)])
        assert guarded.http.generate("Q: Who? A:")["version"]
        for n, one in enumerate(slow):
            seen = [status for status, _, _ in answers(one)]  # until the server hangs up; the socket's own timeout is an error
            assert seen in ([200], [200, 408]) if n % len(begun) == 5 else seen == [408], begun[n % len(begun)]


def test_a_stranger_is_refused_before_its_body_is_read(guarded: ThreadServer) -> None:
    status, headers, body = send(guarded, b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000000\r\n\r\n{")
    assert (status, headers["connection"]) == (401, "close")
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_only_if_it_may_send_it(guarded: ThreadServer, http: Http) -> None:
    assert http.get("/healthz").status_code == 200
    status, _, _ = send(guarded, b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
    assert status == 401
