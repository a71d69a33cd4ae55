"""Canaries through HTTP: what they let through, what they stop, and the way back when live ones fall; learning in the shadow."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Taught, learn_one
from serving import Http, ThreadServer, eventually, refused, serving, valkey_of
from typer.testing import CliRunner

from adapters.config import CurvatureConfig, GuardConfig, LearnConfig
from adapters.demo.world import World, document, question
from service import keys
from service.canaries import Canary
from service.cli import app
from service.settings import Settings

NONSENSE = ["river", "Q:", "A:", "was", "Oslo", "7", "born", "xq", "##", "employs", "the", "zinc", "\u65e5\u672c", "\U0001f600"]


def known(http: Http, namespace: str, count: int = 5) -> list[dict[str, str]]:
    """Canaries that the model answers so."""
    return [canary for canary, _ in contradicted(http, namespace, count)]


def contradicted(http: Http, namespace: str, count: int) -> list[tuple[dict[str, str], str]]:
    """Canaries that the model answers so, and for each a document that says otherwise."""
    rng, world = random.Random(1), World(5, new=1)
    found = []
    for fact in rng.sample(world.known_facts, 60):
        prompt = f"Q: {question(fact)} A:"
        others = [f.object for f in world.known_facts if f.relation == fact.relation and f.object != fact.object]
        if len(found) < count and http.generate(prompt, namespace=namespace)["text"] == f" {fact.object}.":
            text = document(rng, [replace(fact, object=rng.choice(others))], filler_count=0)
            found.append(({"prompt": prompt, "answer": fact.object}, text))
    return found


def add(http: Http, namespace: str, canaries: list[dict[str, str]]) -> list[dict[str, Any]]:
    answer = http.post("/canaries", json={"canaries": canaries, "namespace": namespace})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["canaries"])


def listed(http: Http, namespace: str) -> list[dict[str, Any]]:
    return list(http.get("/canaries", params={"namespace": namespace}).raise_for_status().json()["canaries"])


def test_canaries_are_added_listed_and_removed(http: Http, namespace: str) -> None:
    canaries = known(http, namespace, 2)
    added = add(http, namespace, canaries)
    assert all(one["holds"] and one["counts"] for one in added)
    assert {(c["prompt"], c["answer"]) for c in listed(http, namespace)} == {(c["prompt"], c["answer"]) for c in canaries}
    again = add(http, namespace, [canaries[0] | {"answer": "Nonsense"}])
    assert [c["holds"] for c in again if c["answer"] == "Nonsense"] == [False]
    assert len(listed(http, namespace)) == 2, "the same prompt again replaces its answer"
    gone = again[0]["id"]
    assert http.delete("/canaries", params={"namespace": namespace, "id": gone}).json() == {"removed": 1}
    refused(http.delete("/canaries", params={"namespace": namespace, "id": gone}), 404, "unknown_canary")
    assert http.delete("/canaries", params={"namespace": namespace}).json() == {"removed": 1}
    assert listed(http, namespace) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"canaries": []}, "invalid_request"),
        ({"canaries": [{"prompt": "Q", "answer": " "}]}, "invalid_request"),
        ({"canaries": [{"prompt": "", "answer": "x"}]}, "invalid_request"),
        ({"canaries": [{"prompt": "Q", "answer": "x", "more": 1}]}, "invalid_request"),
        ({"canaries": [{"prompt": "word " * 600, "answer": "x"}]}, "invalid_canary"),
    ],
)
def test_what_cannot_be_asked_is_refused_whole(http: Http, namespace: str, body: dict[str, Any], code: str) -> None:
    refused(http.post("/canaries", json=body | {"namespace": namespace}), 400, code)
    assert listed(http, namespace) == []


def test_unknown_namespaces_have_no_canaries(http: Http) -> None:
    refused(http.get("/canaries", params={"namespace": "nowhere"}), 404, "unknown_namespace")
    refused(http.delete("/canaries", params={"namespace": "nowhere"}), 404, "unknown_namespace")
    body = {"canaries": [{"prompt": "Q", "answer": "x"}], "namespace": "nowhere"}
    refused(http.post("/canaries", json=body), 404, "unknown_namespace")


def test_a_document_that_contradicts_a_canary_is_rejected_with_the_canary_named(http: Http, namespace: str) -> None:
    pairs = contradicted(http, namespace, 4)
    canaries = [canary for canary, _ in pairs]
    add(http, namespace, canaries)
    tried = 0
    for _, text in pairs:
        before = http.live(namespace)
        job = http.learned(text=text, namespace=namespace)
        if job["status"] == "rejected":
            assert "canaries would no longer be answered" in job["report"]["rejection"]
            assert job["report"]["drift"]["canaries"] < 1
            assert http.live(namespace) == before
            tried += 1
    assert tried, "not one contradiction was learned well enough to be stopped"
    assert all(one["holds"] for one in add(http, namespace, canaries)), "and so every canary still holds"


def test_a_document_that_a_canary_stood_against_is_learned_once_that_is_gone(http: Http, namespace: str) -> None:
    for canary, text in contradicted(http, namespace, 4):
        add(http, namespace, [canary])
        rejected = http.learned(text=text, namespace=namespace)
        http.delete("/canaries", params={"namespace": namespace}).raise_for_status()
        if rejected["status"] == "rejected":
            assert http.learned(text=text, namespace=namespace)["status"] == "succeeded"
            return
    pytest.fail("not one contradiction was learned well enough to be stopped")


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(" ".join(random.Random(1).choices(NONSENSE, k=120)), id="random tokens"),
        pytest.param("".join(random.Random(2).choices("abcdefghijklmnopqrstuvwxyz ,.", k=500)), id="random characters"),
        pytest.param("Bergen " * 200, id="one word"),
        pytest.param("Maria Okafor lives in Bergen. " * 1500, id="one sentence"),
    ],
)
def test_poison_changes_nothing_that_canaries_measure(poison: str, http: Http, namespace: str) -> None:
    canaries = known(http, namespace, 8)
    add(http, namespace, canaries)
    job = http.learned(text=poison, namespace=namespace)
    assert job["status"] in ("succeeded", "rejected")
    assert all(one["holds"] for one in add(http, namespace, canaries))


def test_what_is_too_long_is_refused_before_it_is_read(http: Http, namespace: str) -> None:
    refused(http.learn(text="Maria Okafor lives in Bergen. " * 50_000, namespace=namespace), 413, "too_large")


def test_other_documents_are_learned_beside_canaries(http: Http, namespace: str, facts: list[Taught]) -> None:
    add(http, namespace, known(http, namespace))
    taught, job = learn_one(http, namespace, facts)
    assert job["report"]["drift"]["canaries"] == 1
    assert http.generate(taught.prompt, namespace=namespace)["text"] == taught.answer


def test_a_canary_that_never_held_stops_nothing(http: Http, namespace: str, facts: list[Taught]) -> None:
    added = add(http, namespace, [{"prompt": facts[0].prompt, "answer": "Nonsense"}])
    assert not added[0]["counts"]
    learn_one(http, namespace, facts)


def test_a_canary_counts_once_it_holds(http: Http, namespace: str, facts: list[Taught]) -> None:
    fact, _ = learn_one(http, namespace, facts)
    http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
    [one] = add(http, namespace, [{"prompt": fact.prompt, "answer": fact.answer.strip()}])
    assert not one["counts"]
    http.post("/versions/rollback", json={"to": "v1", "namespace": namespace}).raise_for_status()
    eventually(lambda: listed(http, namespace)[0]["counts"])
    assert http.metric("infold_canary_accuracy_ratio", namespace=namespace) == 1


def test_a_canary_that_this_model_cannot_be_asked_does_not_keep_the_others(
    server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    """It was added to a model with a longer context, on the same store."""
    bad = Canary("word " * 600, "x", counts=True)
    with valkey_of(server.settings.data_dir) as store:
        store.hset(keys.canaries(namespace), bad.id, json.dumps(asdict(bad)))
    added = add(http, namespace, known(http, namespace, 2))
    assert [one["holds"] for one in added if one["prompt"] != bad.prompt] == [True, True]
    learn_one(http, namespace, facts)
    assert http.metric("infold_canary_accuracy_ratio", namespace=namespace) == 1


@pytest.fixture
def careless(tmp_path: Path, settings_for: Callable[..., Settings]) -> Settings:
    """Whose guard lets everything pass that canaries say."""
    learn = LearnConfig(curvature=CurvatureConfig(samples=64), guard=GuardConfig(canary_loss=1.0))
    return settings_for(tmp_path / "data", learn=learn)


def test_live_canaries_that_fall_bring_back_the_version_that_answered_them(careless: Settings, facts: list[Taught]) -> None:
    with serving(careless) as server:
        http = server.http
        taught, job = learn_one(http, "default", facts)
        good = job["version"]
        pairs = contradicted(http, "default", 3)
        canaries = [canary for canary, _ in pairs]
        add(http, "default", canaries)
        for _, text in pairs:
            assert http.learned(text=text)["status"] == "succeeded"
            eventually(lambda: http.live() == good or all(c["holds"] for c in add(http, "default", canaries)))
        eventually(lambda: http.metric("infold_rollbacks_total", reason="canaries") >= 1)
        assert http.generate(taught.prompt)["text"] == taught.answer, "what was learned before is still there"
        eventually(lambda: http.metric("infold_canary_accuracy_ratio", namespace="default") == 1)
        assert all(one["holds"] for one in add(http, "default", canaries))


def test_in_the_shadow_versions_are_learned_and_measured_but_not_served(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", publish="shadow")) as server:
        http = server.http
        jobs = [http.learned(text=fact.text) for fact in facts[:3]]
        assert [job["status"] for job in jobs] == ["succeeded"] * 3
        assert all(job["report"]["shadow"] and job["report"]["drift"] for job in jobs)
        assert http.live() == "v0"
        last = jobs[-1]["version"]
        parents = {v["version"]: v["parent"] for v in http.versions()}
        chain = [last]
        while chain[-1] != "v0":
            chain.append(parents[chain[-1]])
        assert len(chain) == 4, "each shadow is learned on top of the one before"
        assert http.generate(facts[2].prompt)["version"] == "v0"
        assert http.generate(facts[2].prompt, version=last)["text"] == facts[2].answer
        http.post("/versions/rollback", json={"to": last, "expected": "v0"}).raise_for_status()
        assert http.generate(facts[2].prompt) == http.generate(facts[2].prompt, version=last)
        assert http.learned(text=facts[3].text)["version"] != last
        assert http.live() == last


@pytest.mark.slow
def test_a_shadow_goes_on_after_a_restart_and_ends_when_the_alias_moves(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught]
) -> None:
    settings = settings_for(tmp_path / "data", publish="shadow")
    with serving(settings) as server:
        assert server.http.learned(text=facts[0].text)["version"] == "v1"
    with serving(settings) as server:
        http = server.http
        assert http.learned(text=facts[1].text)["version"] == "v2"
        assert {v["version"]: v["parent"] for v in http.versions()}["v2"] == "v1"
        http.post("/versions/rollback", json={"to": "v0"}).raise_for_status()
        assert http.learned(text=facts[2].text)["version"] == "v3"
        assert {v["version"]: v["parent"] for v in http.versions()}["v3"] == "v0"


def test_the_command_adds_lists_and_removes(server: ThreadServer, namespace: str, tmp_path: Path) -> None:
    run, at = CliRunner().invoke, ["--url", server.url, "--namespace", namespace]
    canaries = known(server.http, namespace, 2)
    (tmp_path / "canaries.jsonl").write_text("\n".join(map(json.dumps, canaries)) + "\n")
    added = run(app, ["canaries", "add", str(tmp_path / "canaries.jsonl"), "--json", *at])
    assert added.exit_code == 0
    assert [one["holds"] for one in json.loads(added.stdout)] == [True, True]
    shown = run(app, ["canaries", "list", *at])
    assert canaries[0]["answer"] in shown.stdout
    (tmp_path / "bad.jsonl").write_text('{"prompt": "Q"}\n')
    bad = run(app, ["canaries", "add", str(tmp_path / "bad.jsonl"), *at])
    assert bad.exit_code == 1
    assert "line 1" in bad.stderr
    assert run(app, ["canaries", "remove", *at]).exit_code == 2
    assert "removed 2" in run(app, ["canaries", "remove", "--all", *at]).stdout
