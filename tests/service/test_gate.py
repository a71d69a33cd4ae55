"""Who comes in: never open where others can reach it, rates and sizes of keys, what every answer tells browsers."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from conftest import ADMIN_KEY
from serving import Http, ThreadServer, refused
from typer.testing import CliRunner

from infold import Client
from service.cli import _greet
from service.cli import app as cli
from service.errors import InvalidSettings
from service.gate import check_exposure
from service.settings import Settings, load_settings

ClientOf = Callable[..., Http]
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "infold.example", "127.0.0.1.example"])
def test_a_server_that_others_can_reach_does_not_start_without_keys(host: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        check_exposure(Settings(host=host))
    assert "INFOLD_ADMIN_KEY" in str(refusal.value)
    assert "INFOLD_ALLOW_OPEN" in str(refusal.value)
    check_exposure(Settings(host=host, admin_key=ADMIN_KEY))
    check_exposure(Settings(host=host, allow_open=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_a_server_for_this_machine_may_be_open(host: str) -> None:
    check_exposure(Settings(host=host))


def test_the_command_says_in_one_line_why_it_does_not_start(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "openssl rand" in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("key", ["short", "with a space in between, and thirty-two long", "caf\u00e9" * 10, "x" * 40 + "\n", ""])
def test_a_key_of_the_operators_that_is_weak_or_fits_no_header_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOLD_ADMIN_KEY", key)
    with pytest.raises(InvalidSettings) as refusal:
        load_settings()
    assert not key.strip() or key.strip() not in str(refusal.value)


def test_an_open_server_answers_to_no_other_name(server: ThreadServer) -> None:
    """A page of another site whose name leads to 127.0.0.1 could ask it otherwise."""
    for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "[::2]", "10.0.0.1"):
        refused(httpx2.get(server.url + "/versions", headers={"Host": host}), 403, "wrong_host")
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"):
        assert httpx2.get(server.url + "/versions", headers={"Host": host}).status_code == 200


def test_a_server_with_keys_answers_to_any_name(guarded: ThreadServer) -> None:
    assert guarded.http.get("/versions", headers={"Host": "infold.example"}).status_code == 200


def test_a_rate_is_kept_and_a_refusal_says_when_to_come_again(client_of: ClientOf) -> None:
    client = client_of("generate", rate=3)
    assert [client.get("/v1/models").status_code for _ in range(3)] == [200] * 3
    answer = client.get("/v1/models")
    refused(answer, 429, "rate_exceeded")
    assert 0 < int(answer.headers["retry-after"]) <= 20
    assert client.get("/healthz").status_code == 200
    assert client_of("generate", rate=3).get("/v1/models").status_code == 200, "of another key"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_of_its_key_is_refused(client_of: ClientOf, chunked: bool) -> None:
    client = client_of("generate", max_body_bytes=1000)
    body = b'{"prompt": "Q: Who? A:", "max_new_tokens": 1' + b" " * 900 + b"}"
    kind = {"content-type": "application/json"}
    assert client.post("/generate", content=body, headers=kind).status_code == 200
    content = iter([body, b" " * 100]) if chunked else body + b" " * 100
    refused(client.post("/generate", content=content, headers=kind), 413, "too_large")


def test_every_answer_says_what_browsers_may_do_with_it(guarded: ThreadServer, server: ThreadServer) -> None:
    asked = [
        guarded.http.get("/versions"),
        guarded.http.get("/healthz"),
        guarded.http.get("/nothing"),
        guarded.http.post("/learn", json={}),
        guarded.http.request("PUT", "/learn"),
        httpx2.get(guarded.url + "/versions"),
        httpx2.get(server.url + "/versions", headers={"Host": "evil.example"}),
        server.http.post("/learn", content=b"x" * 5_000_000),
        server.http.get("/openapi.json"),
    ]
    assert {answer.status_code for answer in asked} == {200, 404, 400, 405, 401, 403, 413}
    for answer in asked:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers


def test_the_page_that_needs_scripts_of_another_site_is_off(server: ThreadServer) -> None:
    for path in ("/docs", "/redoc"):
        refused(server.http.get(path), 404)
    assert server.http.get("/openapi.json").json()["info"]["title"] == "infold"


def test_a_browser_cannot_be_made_to_send_what_changes_anything(server: ThreadServer, namespace: str) -> None:
    """A page of another site can send text, forms and uploads without asking first; none of them is read as a body."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        body = f'{{"text": "The sky is green.", "namespace": "{namespace}"}}'.encode()
        refused(server.http.post("/learn", content=body, headers={"content-type": kind}), 400)
    assert server.http.get("/documents", params={"namespace": namespace}).json()["total"] == 0


def test_commands_send_the_key_of_the_environment(guarded: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create, list, revoke: `infold keys`."""

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--url", guarded.url])
        assert result.exit_code == 0, result.output
        return result.stdout

    refusal = CliRunner().invoke(cli, ["keys", "list", "--url", guarded.url])
    assert (refusal.exit_code, "API key" in refusal.stderr) == (1, True)
    monkeypatch.setenv("INFOLD_API_KEY", ADMIN_KEY)
    secret = run("keys", "create", "ci", "--scope", "learn", "--scope", "generate", "--namespace", "acme", "--rate", "90").strip()
    key_id = secret.split("_")[1]
    assert secret.startswith("infold_")
    with Http(guarded.url, secret) as client:
        assert client.get("/documents", params={"namespace": "acme"}).status_code == 200
        monkeypatch.setenv("COLUMNS", "40")
        [row] = [line for line in run("keys", "list").splitlines() if key_id in line]
        assert "learn, generate" in row, "nobody cuts off what goes into a pipe"
        assert secret not in run("keys", "list", "--json")
        run("keys", "revoke", key_id)
        assert client.get("/documents", params={"namespace": "acme"}).status_code == 401


def test_commands_and_the_client_need_no_namespace_with_a_bound_key(guarded: ThreadServer, client_of: ClientOf) -> None:
    secret = client_of("generate", "learn", namespaces=["spare"]).headers["authorization"].split()[1]
    ours = ["--url", guarded.url, "--api-key", secret]
    status = CliRunner().invoke(cli, ["status", "--json", *ours])
    assert json.loads(status.stdout)["namespace"] == "spare", status.output
    for words in (["ask", "Q: Who?", "--max-new-tokens", "1"], ["versions"], ["chat", "--max-tokens", "1"]):
        found = CliRunner().invoke(cli, [*words, *ours], input="Who?\n")
        assert found.exit_code == 0, found.output
    with Client(guarded.url, api_key=secret) as client:
        assert client.access() == {"scopes": ["generate", "learn"], "namespaces": ["spare"], "namespace": "spare"}
        assert client.documents().total == client.documents(namespace="spare").total


def test_what_a_server_with_keys_proposes_sends_one(capsys: pytest.CaptureFixture[str]) -> None:
    _greet(Settings(admin_key=ADMIN_KEY))
    proposed = capsys.readouterr().err
    assert proposed.count("$INFOLD_ADMIN_KEY") == 2
    assert ADMIN_KEY not in proposed
    _greet(Settings())
    assert "INFOLD_ADMIN_KEY" not in capsys.readouterr().err
