"""Taking documents back, through HTTP: what is answered then, which versions are left, and where the text is not any more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from conftest import Taught, fresh_namespace
from serving import Http, ThreadServer, eventually, refused, serving
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings


def forget(http: Http, document: str, namespace: str = "default", **more: Any) -> dict[str, Any]:
    answer = http.delete(f"/documents/{document}", params={"namespace": namespace, "wait": 60} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def teach(http: Http, namespace: str, facts: list[Taught], count: int = 3) -> list[dict[str, Any]]:
    """Documents `doc-<n>`, each of which became a version."""
    jobs = [http.learned(text=fact.text, id=f"doc-{n}", namespace=namespace) for n, fact in enumerate(facts[:count])]
    assert all(job["status"] == "succeeded" and job["report"]["folds"] for job in jobs)
    return jobs


def answer(http: Http, namespace: str, fact: Taught, **more: Any) -> str:
    return str(http.generate(fact.prompt, namespace=namespace, **more)["text"])


@pytest.mark.parametrize("exact", [False, True])
def test_a_document_that_is_taken_back_is_not_answered_and_the_others_are(
    exact: bool, http: Http, namespace: str, facts: list[Taught]
) -> None:
    before = answer(http, namespace, facts[1])
    jobs = teach(http, namespace, facts)
    told = [answer(http, namespace, fact) for fact in facts[:3]]
    assert told[1] == facts[1].answer != before
    job = forget(http, "doc-1", namespace, exact=exact)
    assert (job["status"], job["kind"], job["document_id"]) == ("succeeded", "forget", "doc-1")
    report = job["report"]
    assert report["forgotten"]["before"] >= 1
    assert (report["left"], report["exact"], report["learned_anew"]) == (0, exact, int(exact))
    assert report["versions_withdrawn"] == 2
    assert answer(http, namespace, facts[1]) != facts[1].answer
    assert [answer(http, namespace, facts[n]) for n in (0, 2)] == [told[0], told[2]]
    names = [v["version"] for v in http.versions(namespace)]
    assert names == ["v0", jobs[0]["version"], job["version"]]
    assert http.live(namespace) == job["version"]
    [last] = [v for v in http.versions(namespace) if v["live"]]
    assert last["parent"] == jobs[0]["version"]
    for gone in (jobs[1]["version"], jobs[2]["version"]):
        refused(http.post("/generate", json={"prompt": "x", "namespace": namespace, "version": gone}), 404, "unknown_version")
    refused(http.get("/documents/doc-1", params={"namespace": namespace}), 404, "unknown_document")
    refused(http.delete("/documents/doc-1", params={"namespace": namespace}), 404, "unknown_document")
    again = http.learned(text=facts[1].text, id="doc-1", namespace=namespace)
    assert again["status"] == "succeeded", "and it can be learned again"
    assert answer(http, namespace, facts[1]) == facts[1].answer


def test_exactly_forgotten_is_bit_for_bit_never_learned(server: ThreadServer, facts: list[Taught]) -> None:
    """Two namespaces: one has never seen the documents. (Of both, all documents were accepted.) What the first time learned anew
    is learned anew again the second time."""
    http, (one, other) = server.http, (fresh_namespace(), fresh_namespace())
    teach(http, one, facts, 5)
    forget(http, "doc-3", one, exact=True)
    forget(http, "doc-1", one, exact=True)
    for n in (0, 2, 4):
        http.learned(text=facts[n].text, id=f"doc-{n}", namespace=other)
    runtime = server.runtime
    weights = []
    for namespace in (one, other):
        total, memories = runtime.store.rebuild(
            runtime.ledger.resolve(namespace).digest, runtime.base.digest, runtime.learner.workspace.base_weights
        )
        weights.append((total.weights(), memories))
    assert weights[0][1] == weights[1][1]
    assert all(torch.equal(weight, weights[1][0][name]) for name, weight in weights[0][0].items())


def test_a_document_that_is_not_in_what_is_served_is_taken_out_of_what_is_not(
    http: Http, namespace: str, facts: list[Taught]
) -> None:
    jobs = teach(http, namespace, facts, 2)
    http.post("/versions/rollback", json={"to": jobs[0]["version"], "namespace": namespace}).raise_for_status()
    job = forget(http, "doc-1", namespace)
    assert job["version"] == jobs[0]["version"] == http.live(namespace), "what is served stays"
    assert [v["version"] for v in http.versions(namespace)] == ["v0", jobs[0]["version"]]


def test_a_document_that_only_what_is_withdrawn_knew_is_named_and_can_be_learned_again(
    http: Http, namespace: str, facts: list[Taught]
) -> None:
    jobs = teach(http, namespace, facts, 3)
    http.post("/versions/rollback", json={"to": jobs[0]["version"], "namespace": namespace}).raise_for_status()
    job = forget(http, "doc-1", namespace)
    assert job["report"]["lost"] == ["doc-2"]
    again = http.learned(text=facts[2].text, id="doc-2", namespace=namespace)
    assert (again["status"], again["job_id"] != jobs[2]["job_id"]) == ("succeeded", True)
    assert answer(http, namespace, facts[2]) == facts[2].answer


@pytest.mark.slow
def test_in_the_shadow_such_a_document_is_learned_again_by_itself(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", publish="shadow")) as server:
        http = server.http
        teach(http, "default", facts, 3)
        assert forget(http, "doc-1")["report"]["lost"] == ["doc-2"]
        last = eventually(lambda: [v for v in http.versions() if v["documents"] == ["doc-2"]])[0]
        assert answer(http, "default", facts[2], version=last["version"]) == facts[2].answer
        assert answer(http, "default", facts[1], version=last["version"]) != facts[1].answer
        assert http.live() == "v0"


@pytest.mark.slow
def test_documents_are_taken_back_one_after_the_other_in_any_order(http: Http, namespace: str, facts: list[Taught]) -> None:
    before = [answer(http, namespace, fact) for fact in facts[:5]]
    teach(http, namespace, facts, 5)
    told = [answer(http, namespace, fact) for fact in facts[:5]]
    gone = set()
    for n, exact in ((1, False), (3, False), (0, True), (4, False)):
        assert forget(http, f"doc-{n}", namespace, exact=exact)["report"]["left"] == 0
        gone.add(n)
        for k in range(5):
            if k not in gone:
                assert answer(http, namespace, facts[k]) == told[k]
            elif told[k] != before[k]:
                assert answer(http, namespace, facts[k]) != told[k]
    assert http.learned(text=facts[1].text, id="doc-1", namespace=namespace)["status"] == "succeeded"
    assert answer(http, namespace, facts[1]) == facts[1].answer
    assert answer(http, namespace, facts[2]) == told[2]


def test_the_first_of_one_document_leaves_what_the_base_model_says(http: Http, namespace: str, facts: list[Taught]) -> None:
    before = [http.generate(fact.prompt, namespace=namespace)["text"] for fact in facts[:4]]
    teach(http, namespace, facts, 1)
    forget(http, "doc-0", namespace)
    assert [http.generate(fact.prompt, namespace=namespace)["text"] for fact in facts[:4]] == before


def test_what_was_rejected_or_changed_nothing_is_forgotten_too(http: Http, namespace: str, facts: list[Taught]) -> None:
    teach(http, namespace, facts, 1)
    job = http.learned(text=facts[0].text + " ", id="twin", namespace=namespace)
    done = forget(http, "twin", namespace)
    assert done["status"] == "succeeded"
    refused(http.get("/documents/twin", params={"namespace": namespace}), 404, "unknown_document")
    assert http.job(job["job_id"])["report"] is None, "what was read in it is gone with it"


def test_forgetting_needs_a_document_and_a_namespace(http: Http, namespace: str) -> None:
    refused(http.delete("/documents/none", params={"namespace": namespace}), 404, "unknown_document")
    refused(http.delete("/documents/none", params={"namespace": "nowhere"}), 404, "unknown_namespace")
    refused(http.delete("/documents/none", params={"namespace": namespace, "exact": "perhaps"}), 400, "invalid_request")


def test_without_waiting_a_job_is_named_that_can_be_followed(http: Http, namespace: str, facts: list[Taught]) -> None:
    teach(http, namespace, facts, 1)
    accepted: httpx2.Response = http.delete("/documents/doc-0", params={"namespace": namespace})
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/learn/{accepted.json()['job_id']}"
    with http.stream("GET", f"{accepted.headers['Location']}/events") as stream:
        shown = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert '"succeeded"' in shown[-1]


WORDS = ("Zanthorpe", "quibblewick", "Orlomund")


def files_with(root: Path, text: str) -> list[str]:
    def holds(path: Path) -> bool:
        try:
            return path.is_file() and text.encode() in path.read_bytes()
        except FileNotFoundError:  # the store rewrites its log, and removes what it replaced
            return False

    return [str(path) for path in root.rglob("*") if holds(path)]


@pytest.mark.parametrize("exact", [False, True])
def test_a_forgotten_text_is_in_no_store(
    exact: bool, tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught]
) -> None:
    """Neither in the store's memory, nor in its log on disk, nor in any file of the data directory, nor in what it logs."""
    with serving(settings_for(tmp_path / "data", snapshot_every=1)) as server:
        http = server.http
        text = f"{facts[0].text} {WORDS[0]} {WORDS[1]} met {WORDS[2]}."
        job = http.learned(text=text, id="secret", metadata={"by": WORDS[2]})
        assert job["status"] == "succeeded"
        http.learned(text=facts[1].text, id="other")
        assert files_with(tmp_path, WORDS[0]), "it was somewhere"
        digests = {v["digest"] for v in http.versions()} - {None}
        forget(http, "secret", exact=exact)
        for word in WORDS:
            assert files_with(tmp_path, word) == []
        assert answer(http, "default", facts[1]) == facts[1].answer
        left = {path.name for path in (tmp_path / "data" / "versions").iterdir() if len(path.name) == 64}
        live = [v["digest"] for v in http.versions() if v["live"]]
        members = set(server.runtime.store.chain(live[0]))
        assert left == members, "nothing is on disk but what is served"
        assert len(digests - left) == (2 if exact else 1)
        kept = {path.name for path in (tmp_path / "data" / "versions" / "snapshots").iterdir()}
        assert kept == set(live)
    with serving(settings_for(tmp_path / "data", snapshot_every=1)) as server:
        assert answer(server.http, "default", facts[1]) == facts[1].answer
        assert files_with(tmp_path, WORDS[0]) == []


def test_the_command_forgets_and_says_what_is_left(server: ThreadServer, namespace: str, facts: list[Taught]) -> None:
    teach(server.http, namespace, facts, 2)
    run, at = CliRunner().invoke, ["--url", server.url, "--namespace", namespace]
    done = run(app, ["forget", "doc-0", "--json", *at])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"]["left"] == 0
    shown = run(app, ["forget", "doc-1", "--exact", *at])
    assert shown.exit_code == 0
    assert "answers now" in shown.stdout
    assert run(app, ["forget", "doc-1", *at]).exit_code == 1
