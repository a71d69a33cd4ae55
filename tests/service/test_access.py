"""What a key may do and see, through HTTP: scopes of all routes, and tenants that are nothing to each other."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from conftest import Taught, learn_one
from fastapi.routing import APIRoute
from serving import Http, ThreadServer, refused

from service.settings import Settings

ClientOf = Callable[..., Http]
SCOPES = ("generate", "learn", "metrics", "admin")
NEEDS: dict[str, dict[str, str]] = {
    "/learn": {"POST": "learn"},
    "/learn/{job_id}": {"GET": "learn"},
    "/learn/{job_id}/events": {"GET": "learn"},
    "/learn/{job_id}/cancel": {"POST": "learn"},
    "/documents": {"GET": "learn"},
    "/documents/{document_id}": {"GET": "learn", "DELETE": "admin"},
    "/score": {"POST": "generate"},
    "/generate": {"POST": "generate"},
    "/v1/models": {"GET": "generate"},
    "/v1/models/{model}": {"GET": "generate"},
    "/v1/completions": {"POST": "generate"},
    "/v1/chat/completions": {"POST": "generate"},
    "/versions": {"GET": "generate"},
    "/versions/diff": {"GET": "generate"},
    "/versions/{version}": {"GET": "generate"},
    "/versions/{version}/export": {"POST": "admin"},
    "/versions/collect": {"POST": "admin"},
    "/versions/rollback": {"POST": "admin"},
    "/canaries": {"GET": "admin", "POST": "admin", "DELETE": "admin"},
    "/dead-letters": {"GET": "admin"},
    "/dead-letters/{job_id}/retry": {"POST": "admin"},
    "/dead-letters/{job_id}": {"DELETE": "admin"},
    "/keys": {"GET": "admin", "POST": "admin"},
    "/keys/{key_id}": {"DELETE": "admin"},
    "/audit": {"GET": "admin"},
    "/metrics": {"GET": "metrics"},
}
OPEN = {"/healthz", "/readyz"}
ANY_KEY = {"/version", "/access"}
EVERYWHERE = {"/keys", "/keys/{key_id}", "/metrics"}
"""Of the server as a whole: not for keys that are bound to namespaces."""


def calls() -> Iterator[tuple[str, str, str]]:
    for path, methods in NEEDS.items():
        for method, scope in methods.items():
            yield method, path, scope


def ask(client: httpx2.Client, method: str, path: str) -> httpx2.Response:
    """With names of nothing, and a body that asks for nothing."""
    filled = path.format(job_id="job-none", document_id="none", model="none", version="none", key_id="none")
    return client.request(method, filled, json={} if method == "POST" else None)


def test_every_route_needs_a_scope_that_this_file_names(guarded: ThreadServer) -> None:
    paths = guarded.http.get("/openapi.json").json()["paths"]
    found = {path: {m.upper(): None for m in item} for path, item in paths.items() if path not in OPEN | ANY_KEY}
    assert {path: set(methods) for path, methods in found.items()} == {path: set(methods) for path, methods in NEEDS.items()}
    for path, item in paths.items():
        for operation in item.values():
            assert bool(operation.get("security")) == (path not in OPEN | ANY_KEY), path


def test_no_route_is_hidden_from_the_schema(guarded: ThreadServer) -> None:
    hidden = {r.path for r in guarded.app.routes if isinstance(r, APIRoute) and not r.include_in_schema}
    assert hidden <= {"/", "/ui/{name}"}, "the page, which is open"


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_do_what_its_scope_says_and_admin_everything(client_of: ClientOf, scope: str) -> None:
    client = client_of(scope)
    for method, path, needed in calls():
        answer = ask(client, method, path)
        if scope in (needed, "admin"):
            assert answer.status_code not in (401, 403), (method, path, answer.text)
        else:
            refused(answer, 403, "insufficient_scope")


def test_without_a_key_or_with_a_wrong_one_nothing_is_answered_but_health(guarded: ThreadServer) -> None:
    for header in (
        {},
        {"Authorization": "Bearer infold_000000000000_" + "x" * 43},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "x"},
    ):
        with httpx2.Client(base_url=guarded.url, headers=header) as client:
            for method, path, _ in calls():
                answer = ask(client, method, path)
                refused(answer, 401, "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
            for path in ("/version", "/access", "/openapi.json", "/nothing/here", "/docs"):
                refused(client.get(path), 401, "invalid_api_key")
            for path in OPEN:
                assert client.get(path).status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_as_one_likes(guarded: ThreadServer, scheme: str) -> None:
    key = guarded.http.headers["authorization"].split()[1]
    assert httpx2.get(guarded.url + "/version", headers={"Authorization": f"{scheme} {key}"}).status_code == 200


def test_a_bound_key_does_not_reach_what_is_of_all_namespaces(client_of: ClientOf) -> None:
    client = client_of("admin", namespaces=["acme"])
    for method, path, _ in calls():
        if path in EVERYWHERE:
            refused(ask(client, method, path), 403, "insufficient_scope")


def test_a_key_for_metrics_cannot_be_bound_for_they_are_of_all_namespaces(guarded: ThreadServer) -> None:
    body = {"name": "scraper", "scopes": ["metrics"], "namespaces": ["acme"]}
    assert refused(guarded.http.post("/keys", json=body), 400, "invalid_request")["param"] == "scopes"


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(guarded: ThreadServer) -> None:
    body = {"name": "ci <b>", "scopes": ["learn"], "namespaces": ["acme"], "rate": 9, "max_body_bytes": 1000}
    answer = guarded.http.post("/keys", json=body)
    assert answer.status_code == 201
    made = answer.json()
    secret = made.pop("key")
    assert made in guarded.http.get("/keys").json()["keys"]
    assert secret not in guarded.http.get("/keys").text
    assert "sha256" not in guarded.http.get("/keys").text
    with Http(guarded.url, secret) as client:
        assert client.get("/documents", params={"namespace": "acme"}).status_code == 200
        assert guarded.http.delete(f"/keys/{made['id']}").json() == {"revoked": made["id"]}
        refused(client.get("/documents", params={"namespace": "acme"}), 401, "invalid_api_key")
    refused(guarded.http.delete(f"/keys/{made['id']}"), 404, "unknown_key")


BAD_KEYS = [
    {"name": "", "scopes": ["learn"]},
    {"name": "a\nb", "scopes": ["learn"]},
    {"name": "\ud800", "scopes": ["learn"]},
    {"name": "a", "scopes": []},
    {"name": "a", "scopes": ["root"]},
    {"name": "a", "scopes": "admin"},
    {"name": "a", "scopes": ["learn"], "namespaces": []},
    {"name": "a", "scopes": ["learn"], "rate": 0},
    {"name": "a", "scopes": ["learn"], "max_body_bytes": -1},
    {"name": "a", "scopes": ["learn"], "id": "mine"},
]


@pytest.mark.parametrize("body", BAD_KEYS)
def test_a_key_that_cannot_be_is_not_made(guarded: ThreadServer, body: dict[str, Any]) -> None:
    refused(
        guarded.http.post("/keys", content=json.dumps(body), headers={"content-type": "application/json"}), 400, "invalid_request"
    )


def test_a_key_is_bound_only_to_namespaces_that_there_are(guarded: ThreadServer) -> None:
    refused(guarded.http.post("/keys", json={"name": "a", "scopes": ["learn"], "namespaces": ["acne"]}), 404, "unknown_namespace")


def test_an_open_server_makes_no_keys(http: Http) -> None:
    refused(http.post("/keys", json={"name": "a", "scopes": ["learn"]}), 409, "keys_off")


# --- tenants

VOID = {"namespace": "void", "job": f"job-{'0' * 20}", "document": "doc-none", "model": "infold-demo:void", "version": "v1"}
PROBES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/documents?namespace={namespace}", None),
    ("GET", "/documents/{document}?namespace={namespace}", None),
    ("DELETE", "/documents/{document}?namespace={namespace}", None),
    ("GET", "/versions?namespace={namespace}", None),
    ("GET", "/versions/{version}?namespace={namespace}", None),
    ("GET", "/versions/diff?from=v0&to={version}&namespace={namespace}", None),
    ("POST", "/versions/{version}/export", {"namespace": "{namespace}"}),
    ("POST", "/versions/rollback", {"namespace": "{namespace}", "to": "v0"}),
    ("POST", "/versions/rollback", {"namespace": "{namespace}", "to": "v0", "expected": "{version}"}),
    ("POST", "/versions/collect", {"namespace": "{namespace}", "keep": 1}),
    ("POST", "/versions/collect", {"namespace": "{namespace}", "keep": 1, "dry_run": True}),
    ("GET", "/canaries?namespace={namespace}", None),
    ("DELETE", "/canaries?namespace={namespace}", None),
    ("POST", "/canaries", {"namespace": "{namespace}", "canaries": [{"prompt": "Q: Who? A:", "answer": " I."}]}),
    ("GET", "/dead-letters?namespace={namespace}", None),
    ("POST", "/dead-letters/{job}/retry", None),
    ("DELETE", "/dead-letters/{job}", None),
    ("GET", "/audit?namespace={namespace}", None),
    ("POST", "/learn", {"namespace": "{namespace}", "text": "The sky is green."}),
    ("POST", "/learn", {"documents": [{"namespace": "{namespace}", "text": "The sky is green."}]}),
    ("GET", "/learn/{job}", None),
    ("GET", "/learn/{job}/events", None),
    ("POST", "/learn/{job}/cancel", None),
    ("POST", "/generate", {"namespace": "{namespace}", "prompt": "Q: Who? A:"}),
    ("POST", "/generate", {"namespace": "{namespace}", "prompt": "Q: Who? A:", "version": "{version}", "explain": True}),
    ("GET", "/v1/models/{model}", None),
    ("GET", "/v1/models/{model}@{version}", None),
    ("POST", "/v1/completions", {"model": "{model}", "prompt": "Q: Who? A:"}),
    ("POST", "/v1/chat/completions", {"model": "{model}@{version}", "messages": [{"role": "user", "content": "Who?"}]}),
]


@pytest.fixture(scope="module")
def of_acme(guarded: ThreadServer, facts: list[Taught]) -> dict[str, str]:
    """Names of what acme has learned."""
    fact, job = learn_one(guarded.http, "acme", facts)
    assert fact.text
    names = {"namespace": "acme", "job": job["job_id"], "document": job["document_id"], "version": job["version"]}
    return names | {"model": "infold-demo:acme"}


def sent(client: Http, probe: tuple[str, str, dict[str, Any] | None], names: dict[str, str]) -> httpx2.Response:
    method, path, body = probe
    text = json.dumps(body)
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return client.request(
        method, path.format(**{k: quote(v) for k, v in names.items()}), json=None if body is None else json.loads(text)
    )


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe[0]} {probe[1]}")
def test_what_is_another_tenants_is_answered_as_what_does_not_exist(
    client_of: ClientOf, of_acme: dict[str, str], probe: tuple[str, str, dict[str, Any] | None]
) -> None:
    """Same status, same body but for the name that was asked for; and nothing of acme's changes."""
    stranger = client_of("admin", namespaces=["globex"])
    theirs, nobodys = sent(stranger, probe, of_acme), sent(stranger, probe, VOID)
    refused(theirs, 404)
    expected = nobodys.text
    for name in ("job", "namespace"):
        expected = expected.replace(VOID[name], of_acme[name])
    assert theirs.text == expected
    assert {k: v for k, v in theirs.headers.items() if k not in ("x-request-id", "date", "content-length")} == {
        k: v for k, v in nobodys.headers.items() if k not in ("x-request-id", "date", "content-length")
    }
    own = client_of("admin", namespaces=["acme"])
    assert own.live("acme") == of_acme["version"]
    assert own.get("/documents", params={"namespace": "acme"}).json()["total"] >= 1


def test_who_names_no_namespace_means_the_one_of_its_key(client_of: ClientOf, guarded: ThreadServer, facts: list[Taught]) -> None:
    """Wherever a namespace may be named; a key that is bound to several, or to none, means `default`."""
    own = client_of("admin", namespaces=["spare"])
    job = own.learned(text=facts[9].text)
    assert job["namespace"] == "spare"
    live = own.live("spare")
    assert own.generate("Q: Who? A:")["version"] == live != "v0"
    assert job["document_id"] in own.get("/documents").json()["documents"]
    assert own.get(f"/documents/{job['document_id']}").json()["namespace"] == "spare"
    assert own.get("/versions").json()["versions"] == own.versions("spare")
    for path in ("/versions/diff?from=v0&to=v0", "/canaries", "/dead-letters", "/audit"):
        assert own.get(path).status_code == 200, path
    for path, body in (("/versions/rollback", {"to": live}), ("/versions/collect", {"keep": 9, "dry_run": True})):
        assert own.post(path, json=body).status_code == 200, path
    completion = own.post("/v1/completions", json={"model": "infold-demo", "prompt": "Q: Who? A:", "max_tokens": 1}).json()
    assert completion["weight_version"] == live
    several = client_of("admin", namespaces=["acme", "globex"])
    refused(several.post("/learn", json={"text": "The sky is green."}), 404, "unknown_namespace")
    assert client_of("generate").generate("Q: Who? A:")["version"] == guarded.http.live("default")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/learn", {"text": "The sky is green.", "namespace": ""}),
        ("POST", "/learn", {"documents": [{"text": "The sky is green.", "namespace": ""}]}),
        ("POST", "/generate", {"prompt": "Q: Who? A:", "namespace": ""}),
        ("GET", "/documents?namespace=", None),
    ],
)
def test_an_empty_name_is_no_namespace(http: Http, method: str, path: str, body: dict[str, Any] | None) -> None:
    assert "namespace" in str(refused(http.request(method, path, json=body), 400, "invalid_request")["param"])


def test_a_key_can_ask_what_it_may_do_and_where(client_of: ClientOf, guarded: ThreadServer, http: Http) -> None:
    everywhere = ["default", "acme", "globex", "spare"]
    everything = {"scopes": list(SCOPES), "namespaces": everywhere, "namespace": "default"}
    assert guarded.http.get("/access").json() == everything
    assert client_of("learn").get("/access").json() == {"scopes": ["learn"], "namespaces": everywhere, "namespace": "default"}
    bound = client_of("admin", namespaces=["acme"]).get("/access").json()
    assert bound == {"scopes": ["generate", "learn", "admin"], "namespaces": ["acme"], "namespace": "acme"}
    assert client_of("learn", namespaces=["acme", "globex"]).get("/access").json()["namespace"] is None, "it must name one"
    assert http.get("/access").json()["scopes"] == list(SCOPES), "anybody, where there are no keys"


def test_no_list_and_no_error_names_another_tenant(client_of: ClientOf, of_acme: dict[str, str]) -> None:
    stranger = client_of("admin", namespaces=["globex"])
    for path in (
        "/documents",
        "/documents?namespace=globex",
        "/versions?namespace=globex",
        "/audit",
        "/v1/models",
        "/v1/models/none",
    ):
        found = stranger.get(path).text
        assert not [name for name in (*of_acme.values(), "spare") if name in found and name != of_acme["version"]], path
    assert [model["id"] for model in stranger.get("/v1/models").json()["data"]] == ["infold-demo:globex"]


def test_the_same_document_learned_by_two_tenants_is_two_documents(
    client_of: ClientOf, of_acme: dict[str, str], guarded: ThreadServer
) -> None:
    """Neither gets the other's job, nor its weights; and an Idempotency-Key of one is nothing to the other."""
    text = guarded.http.get(f"/documents/{of_acme['document']}", params={"namespace": "acme"}).json()["text"]
    jobs = {}
    for namespace in ("acme", "spare"):
        client = client_of("learn", namespaces=[namespace])
        answer = client.post("/learn", json={"text": text, "namespace": namespace, "wait": 60}, headers={"Idempotency-Key": "k"})
        [job] = answer.json()["jobs"]
        assert job["namespace"] == namespace
        jobs[namespace] = job["job_id"]
    assert jobs["acme"] == of_acme["job"] != jobs["spare"]


def test_no_tenant_learns_from_time_what_another_has_asked(client_of: ClientOf, guarded: ThreadServer) -> None:
    """The prefix cache is kept by namespace: a prompt that one has asked is read anew for another, on the same version v0."""
    prompt = "It is a long story about a river, a bridge, and a town on the other side of it. " * 4

    def known() -> float:
        return guarded.http.metric("infold_prefix_cache_hit_tokens_total")

    def ask(client: Http, namespace: str) -> float:
        before = known()
        client.generate(prompt, namespace=namespace, version="v0", max_new_tokens=1)
        return known() - before

    one, other = (client_of("generate", namespaces=[namespace]) for namespace in ("spare", "globex"))
    assert ask(one, "spare") == 0
    assert ask(one, "spare") > 0
    assert ask(other, "globex") == 0
    assert ask(other, "globex") > 0


def test_settings_do_not_show_the_operators_key() -> None:
    settings = Settings(admin_key="0123456789abcdef0123456789abcdef")
    assert "0123456789" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
