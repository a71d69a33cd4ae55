"""Versions that need not be kept, through HTTP: what goes, what stays, and that nothing in use is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Taught
from serving import Http, ThreadServer, eventually, refused, serving
from typer.testing import CliRunner

from adapters.delta import Delta
from service.cli import app
from service.settings import Settings


def collect(http: Http, namespace: str, keep: int, **more: Any) -> dict[str, Any]:
    answer = http.post("/versions/collect", json={"keep": keep, "namespace": namespace, "wait": 60} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def directories(server: ThreadServer) -> set[str]:
    return {version.digest for version in server.runtime.store.versions()}


def test_old_versions_lose_their_names_and_what_is_served_stays_whole(
    server: ThreadServer, namespace: str, facts: list[Taught]
) -> None:
    http = server.http
    for n, fact in enumerate(facts[:3]):
        assert http.learned(text=fact.text, id=f"doc-{n}", namespace=namespace)["status"] == "succeeded"
    told = [http.generate(fact.prompt, namespace=namespace) for fact in facts[:3]]
    before = directories(server)
    assert collect(http, namespace, 1, dry_run=True) == {"versions": ["v1", "v2"], "removed": 0, "bytes": 0}
    assert len(http.versions(namespace)) == 4
    report = collect(http, namespace, 1)["report"]
    assert report == {"versions": 2, "removed": 0, "bytes": 0, "lost": [], "queued_again": []}
    named = [http.get(f"/documents/doc-{n}", params={"namespace": namespace}).json()["version"] for n in range(3)]
    assert named == ["v3"] * 3, "no document names a version that is not there"
    assert [v["version"] for v in http.versions(namespace)] == ["v0", "v3"]
    assert directories(server) == before, "the live version is made of all of them"
    assert [http.generate(fact.prompt, namespace=namespace) for fact in facts[:3]] == told
    refused(http.post("/generate", json={"prompt": "x", "namespace": namespace, "version": "v1"}), 404, "unknown_version")
    http.delete("/documents/doc-1", params={"namespace": namespace, "wait": 60}).raise_for_status()
    assert http.generate(facts[1].prompt, namespace=namespace)["text"] != facts[1].answer, "each document can still be taken back"
    assert http.generate(facts[2].prompt, namespace=namespace)["text"] == facts[2].answer


def test_what_nothing_leads_to_any_more_is_removed_from_disk(server: ThreadServer, namespace: str, facts: list[Taught]) -> None:
    http, store = server.http, server.runtime.store
    http.learned(text=facts[0].text, id="kept", namespace=namespace)
    http.learned(text=facts[1].text, id="left-behind", namespace=namespace)
    [behind] = [v for v in http.versions(namespace) if v["version"] == "v2"]
    http.post("/versions/rollback", json={"to": "v1", "namespace": namespace}).raise_for_status()
    http.learned(text=facts[2].text, id="after", namespace=namespace)
    orphan = store.write(
        Delta.zero(), [], base="base", parent=None, documents=["never"], drift=None, created=1.0, namespace=namespace
    )
    foreign = store.write(
        Delta.zero(), [], base="base", parent=None, documents=["never"], drift=None, created=2.0, namespace="elsewhere"
    )
    report = collect(http, namespace, 1)["report"]
    assert report["removed"] == 2
    assert report["bytes"] > 0
    left = directories(server)
    assert not {behind["digest"], orphan.digest} & left
    assert foreign.digest in left, "what belongs to another namespace is not touched"
    assert [v["version"] for v in http.versions(namespace)] == ["v0", "v3"]
    store.remove([foreign.digest])


def test_the_live_version_stays_however_old_it_is(http: Http, namespace: str, facts: list[Taught]) -> None:
    for n, fact in enumerate(facts[:2]):
        http.learned(text=fact.text, id=f"doc-{n}", namespace=namespace)
    http.post("/versions/rollback", json={"to": "v1", "namespace": namespace}).raise_for_status()
    collect(http, namespace, 1)
    assert [v["version"] for v in http.versions(namespace)] == ["v0", "v1", "v2"]
    assert http.live(namespace) == "v1"
    assert http.generate(facts[0].prompt, namespace=namespace)["version"] == "v1"


@pytest.mark.parametrize("body", [{"keep": 0}, {}, {"keep": 1, "more": 1}, {"keep": "all"}])
def test_a_wrong_order_is_refused(http: Http, namespace: str, body: dict[str, Any]) -> None:
    refused(http.post("/versions/collect", json={"namespace": namespace} | body), 400, "invalid_request")
    refused(http.post("/versions/collect", json={"keep": 1, "namespace": "nowhere"}), 404, "unknown_namespace")


@pytest.mark.slow
def test_a_policy_is_kept_without_being_asked(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.COLLECT_EVERY", 2)
    with serving(settings_for(tmp_path / "data", keep_versions=1)) as server:
        for fact in facts[:4]:
            server.http.learned(text=fact.text)
        eventually(lambda: len(server.http.versions()) == 2)
        assert server.http.live() == "v4"
        assert server.http.generate(facts[0].prompt)["text"] == facts[0].answer
    with serving(settings_for(tmp_path / "data", keep_versions=1)) as server:
        assert server.http.generate(facts[3].prompt)["text"] == facts[3].answer, "and a start finds all that it needs"


def test_the_command_collects(server: ThreadServer, namespace: str, facts: list[Taught]) -> None:
    for n, fact in enumerate(facts[:2]):
        server.http.learned(text=fact.text, id=f"doc-{n}", namespace=namespace)
    run, at = CliRunner().invoke, ["--url", server.url, "--namespace", namespace]
    assert "1 versions" in run(app, ["collect", "--keep", "1", "--dry-run", *at]).stdout
    done = run(app, ["collect", "--keep", "1", "--json", *at])
    assert json.loads(done.stdout)["report"]["versions"] == 1
