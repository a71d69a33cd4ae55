"""Documents that came to nothing because of another: when that one is taken back they are tried again, and none is lost."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Taught, fresh_namespace
from serving import Http, ProcessServer, ThreadServer, eventually, finals, serving

from adapters.checkpoint import Version, VersionStore
from adapters.delta import Delta
from adapters.demo.world import World, question
from service.documents import Mark
from service.provenance import ANSWERING, Provenance, trace
from service.settings import Settings

BASE = "base"


@pytest.fixture(scope="session")
def trade() -> list[Taught]:
    """One fact in other words each time: whichever is learned, the others teach nothing more."""
    return worded("photographer", "{s} earns a living as a {o}.", "The {o} of the year is {s}.", "{s} works as a {o}.")


@pytest.fixture(scope="session")
def sight() -> list[Taught]:
    """The same of another fact."""
    return worded("lighthouse", "{s} is famous for its {o}.", "The best {o} can be found in {s}.")


def worded(thing: str, *forms: str) -> list[Taught]:
    fact = next(fact for fact in World(5, new=40).one_fact_each if fact.object == thing)
    return [Taught(form.format(s=fact.subject, o=fact.object), f"Q: {question(fact)} A:", f" {fact.object}.") for form in forms]


def learn(http: Http, namespace: str, **texts: Taught) -> dict[str, dict[str, Any]]:
    return {name: http.learned(text=fact.text, id=name, namespace=namespace) for name, fact in texts.items()}


def forget(http: Http, namespace: str, document: str, exact: bool = False) -> dict[str, Any]:
    answer = http.delete(f"/documents/{document}", params={"namespace": namespace, "wait": 60, "exact": exact})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def changes(http: Http, namespace: str) -> list[str]:
    """Documents that the versions of a namespace have learned."""
    return [name for version in http.versions(namespace) for name in version["documents"]]


def named(http: Http, namespace: str, *documents: str) -> list[str | None]:
    """The versions that they name: none, or one that is there."""
    found = [http.get(f"/documents/{name}", params={"namespace": namespace}).json()["version"] for name in documents]
    assert set(found) <= {None, *(version["version"] for version in http.versions(namespace))}
    return found


def answer(http: Http, namespace: str, fact: Taught) -> str:
    return str(http.generate(fact.prompt, namespace=namespace)["text"])


@pytest.mark.parametrize("exact", [False, True])
def test_what_was_known_already_from_a_forgotten_document_is_learned_by_itself_and_what_is_still_known_is_known(
    exact: bool, http: Http, namespace: str, trade: list[Taught], sight: list[Taught]
) -> None:
    before = answer(http, namespace, trade[0])
    jobs = learn(http, namespace, first=sight[0], trade=trade[0], trade_again=trade[1], first_again=sight[1])
    assert changes(http, namespace) == ["first", "trade"]
    report = forget(http, namespace, "trade", exact)["report"]
    assert (report["lost"], report["queued_again"]) == ([], ["trade_again", "first_again"])
    again = [jobs["trade_again"], jobs["first_again"]]
    ended = eventually(lambda: finals(http, again))
    assert [job["status"] for job in ended] == ["succeeded", "succeeded"]
    assert changes(http, namespace) == ["first", "trade_again"]
    assert answer(http, namespace, trade[0]) == trade[0].answer != before
    assert answer(http, namespace, sight[0]) == sight[0].answer
    live = http.live(namespace)
    assert named(http, namespace, "first", "trade_again", "first_again") == ["v1", live, live]
    posted = http.learned(text=trade[1].text, id="trade_again", namespace=namespace)
    assert posted == ended[0], "posted again, it is the same job, which says what came of it"


@pytest.mark.slow
def test_a_chain_of_them_is_learned_link_by_link_and_what_is_forgotten_stays_so(
    http: Http, namespace: str, trade: list[Taught]
) -> None:
    before = answer(http, namespace, trade[0])
    names = ["one", "two", "three"]
    jobs = learn(http, namespace, **dict(zip(names, trade, strict=True)))
    for n, name in enumerate(names):
        assert changes(http, namespace) == [name]
        assert answer(http, namespace, trade[0]) == trade[0].answer
        assert forget(http, namespace, name)["report"]["queued_again"] == names[n + 1 :]
        eventually(lambda left=names[n + 1 :]: finals(http, [jobs[name] for name in left]) is not None)
    assert answer(http, namespace, trade[0]) == before
    assert http.get("/documents", params={"namespace": namespace}).json()["total"] == 0


@pytest.mark.slow
def test_forgetting_two_in_sequence_before_anything_is_tried_again_loses_nothing(
    http: Http, namespace: str, trade: list[Taught], sight: list[Taught]
) -> None:
    jobs = learn(http, namespace, trade=trade[0], sight=sight[0], trade_again=trade[1], sight_again=sight[1])
    for name in ("trade", "sight"):
        http.delete(f"/documents/{name}", params={"namespace": namespace}).raise_for_status()
    eventually(lambda: sorted(changes(http, namespace)) == ["sight_again", "trade_again"])
    assert finals(http, [jobs["trade_again"], jobs["sight_again"]])
    assert [answer(http, namespace, fact) for fact in (trade[0], sight[0])] == [trade[0].answer, sight[0].answer]
    named(http, namespace, "trade_again", "sight_again")


def test_what_was_rejected_because_of_a_forgotten_document_is_learned_by_itself(
    http: Http, namespace: str, trade: list[Taught]
) -> None:
    """The canary holds only because of the document."""
    other = replace(trade[0], text=trade[2].text.replace("photographer", "baker"), answer=" baker.")
    learn(http, namespace, trade=trade[0])
    canary = {"prompt": trade[0].prompt, "answer": "photographer"}
    added = http.post("/canaries", json={"canaries": [canary], "namespace": namespace}).raise_for_status().json()["canaries"]
    assert [one["counts"] for one in added] == [True]
    rejected = learn(http, namespace, other=other)["other"]
    assert (rejected["status"], rejected["version"]) == ("rejected", None)
    assert forget(http, namespace, "trade")["report"]["queued_again"] == ["other"]
    [job] = eventually(lambda: finals(http, [rejected]))
    assert (job["status"], answer(http, namespace, other)) == ("succeeded", other.answer)


@pytest.mark.slow
def test_what_came_to_nothing_before_it_was_learned_is_left_alone_even_when_its_version_is_no_longer_kept(
    http: Http, namespace: str, facts: list[Taught], trade: list[Taught]
) -> None:
    """Nor what the base model knew."""
    [known, *_] = World(5, new=1).known_facts
    base = replace(trade[0], text=f"{known.subject}: {question(known)} {known.object}.")
    learn(http, namespace, base=base, trade=trade[0], trade_again=trade[1], fact=facts[0], later=facts[1])
    http.post("/versions/collect", json={"keep": 1, "namespace": namespace, "wait": 60}).raise_for_status()
    assert set(named(http, namespace, "trade", "trade_again", "fact", "later")) == {http.live(namespace)}
    assert forget(http, namespace, "later")["report"]["queued_again"] == []
    assert set(named(http, namespace, "trade", "trade_again", "fact")) == {http.live(namespace)}
    assert forget(http, namespace, "trade")["report"]["queued_again"] == ["trade_again"]
    eventually(lambda: "trade_again" in changes(http, namespace))
    named(http, namespace, "base", "trade_again", "fact")


@pytest.mark.slow
def test_what_came_to_nothing_on_a_version_that_was_rolled_back_from_is_tried_again_when_that_goes(
    http: Http, namespace: str, facts: list[Taught], trade: list[Taught]
) -> None:
    """Through retention. What that version had learned is named, and free to be posted."""
    jobs = learn(http, namespace, fact=facts[0], trade=trade[0], trade_again=trade[1])
    http.post("/versions/rollback", json={"to": "v1", "namespace": namespace}).raise_for_status()
    learn(http, namespace, later=facts[1])
    assert named(http, namespace, "trade_again") == ["v2"], "it is there to go forward to"
    done = http.post("/versions/collect", json={"keep": 1, "namespace": namespace, "wait": 60}).raise_for_status().json()
    assert (done["report"]["lost"], done["report"]["queued_again"]) == (["trade"], ["trade_again"])
    [job] = eventually(lambda: finals(http, [jobs["trade_again"]]))
    assert (job["status"], answer(http, namespace, trade[0])) == ("succeeded", trade[0].answer)
    assert named(http, namespace, "trade", "trade_again") == [None, http.live(namespace)]
    assert http.learned(text=trade[0].text, id="trade", namespace=namespace)["job_id"] != jobs["trade"]["job_id"]


def test_a_version_without_a_document_is_probed_as_others_are(
    http: Http, namespace: str, facts: list[Taught], trade: list[Taught]
) -> None:
    learn(http, namespace, fact=facts[0], trade=trade[0])
    job = forget(http, namespace, "trade")
    [live] = [version for version in http.versions(namespace) if version["live"]]
    assert live["drift"] == job["report"]["drift"]
    assert (live["drift"]["taken"], live["drift"]["retained"], live["drift"]["kl"] > 0) == (1.0, 1.0, True)
    query = {"from": "v1", "to": live["version"], "namespace": namespace}
    probes = http.get("/versions/diff", params=query).raise_for_status().json()["drift"]
    assert all(None not in seen.values() for seen in probes.values())


@pytest.mark.slow
def test_in_the_shadow_they_are_tried_again_too(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught], trade: list[Taught], sight: list[Taught]
) -> None:
    with serving(settings_for(tmp_path / "data", publish="shadow")) as server:
        http = server.http
        jobs = learn(http, "default", fact=facts[0], trade=trade[0], sight=sight[0], trade_again=trade[1])
        report = forget(http, "default", "trade")["report"]
        assert (report["lost"], set(report["queued_again"])) == (["sight"], {"sight", "trade_again"})
        eventually(lambda: sorted(changes(http, "default")) == ["fact", "sight", "trade_again"])
        assert http.live() == "v0"
        parents = {version["version"]: version["parent"] for version in http.versions()}
        assert parents == {"v0": None, "v1": "v0", "v4": "v1", "v5": "v4"}, "what came before it is still in what is learned on"
        assert finals(http, [jobs["sight"], jobs["trade_again"]])
        named(http, "default", "sight", "trade_again")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_at_each_step_of_forgetting_loses_none_of_them_and_tries_none_twice(
    tmp_path: Path, cache_dir: Path, trade: list[Taught], sight: list[Taught]
) -> None:
    """Killed whenever the job that forgets, or that of the document that is tried again, has come a step further."""
    environment = {"INFOLD_CACHE_DIR": str(cache_dir), "INFOLD_LEARN__CURVATURE__SAMPLES": "64"}
    server = ProcessServer(tmp_path / "data", **environment).await_ready()
    try:
        jobs = learn(server.http, "default", sight=sight[0], trade=trade[0], trade_again=trade[1])
        forgetting = server.http.delete("/documents/trade").raise_for_status().json()
        both, seen = [forgetting, jobs["trade_again"]], ("queued", "succeeded")
        for _ in range(4):
            seen = eventually(partial(_news, server.http, both, seen))
            server.end(signal.SIGKILL)
            server = ProcessServer(tmp_path / "data", **environment).await_ready()
        http = server.http
        ended = eventually(lambda: finals(http, both))
        assert [job["status"] for job in ended] == ["succeeded", "succeeded"]
        assert sorted(changes(http, "default")) == ["sight", "trade_again"]
        assert [answer(http, "default", fact) for fact in (trade[0], sight[0])] == [trade[0].answer, sight[0].answer]
        named(http, "default", "trade_again", "sight")
        assert http.metric("infold_dead_letters") == 0
    finally:
        server.remove()


def _news(http: Http, jobs: list[dict[str, Any]], seen: tuple[str, ...]) -> tuple[str, ...] | None:
    """The jobs' statuses, if they have changed, or there is nothing more to come."""
    now = tuple(http.job(job["job_id"])["status"] for job in jobs)
    return now if now != seen or set(now) == {"succeeded"} else None


@pytest.mark.slow
def test_namespaces_know_nothing_of_each_other(server: ThreadServer, trade: list[Taught]) -> None:
    http, one, other = server.http, fresh_namespace(), fresh_namespace()
    for namespace in (one, other):
        learn(http, namespace, trade=trade[0], trade_again=trade[1])
    forget(http, one, "trade")
    eventually(lambda: changes(http, one) == ["trade_again"])
    assert changes(http, other) == ["trade"]
    assert named(http, other, "trade", "trade_again") == ["v1", "v1"]


@pytest.mark.slow
def test_the_part_of_a_document_that_was_known_from_another_is_learned_when_that_is_forgotten_exactly(
    http: Http, namespace: str, trade: list[Taught], sight: list[Taught]
) -> None:
    both = replace(trade[1], text=f"{trade[1].text} {sight[0].text}")
    jobs = learn(http, namespace, trade=trade[0], both=both)
    assert trade[0].prompt not in " ".join(jobs["both"]["report"]["views"]), "it was known"
    assert changes(http, namespace) == ["trade", "both"]
    forget(http, namespace, "trade", exact=True)
    assert [answer(http, namespace, fact) for fact in (trade[0], sight[0])] == [trade[0].answer, sight[0].answer]


class Links:
    """Versions of a store by letter, each a document of the same name."""

    def __init__(self, root: Path) -> None:
        self.store = VersionStore(root)

    def add(self, letter: str, parent: Version | None, members: list[str] | None = None) -> Version:
        delta = Delta({"layer": (torch.full((2, 1), float(ord(letter))), torch.ones(3, 1))})
        parent_digest = None if parent is None or members is not None else parent.digest
        documents = [letter] if members is None else []
        return self.store.write(
            delta, [], base=BASE, parent=parent_digest, members=members, documents=documents, drift=None, created=0.0
        )


def test_what_a_kept_version_is_made_of_decides_what_stands_for_a_document(tmp_path: Path) -> None:
    """a, b and c were learned one on the other, and x on a; b was taken out: what answers is made of a and c."""
    links = Links(tmp_path)
    a = links.add("a", None)
    b = links.add("b", a)
    c = links.add("c", b)
    x = links.add("x", a)
    made = links.add("m", None, [a.digest, c.digest])
    marks = [
        Mark("a", "v9", None),
        Mark("c", "v3", None),
        Mark("x", "v9", None),
        Mark("b", "v2", None),
        Mark("on-a", "v3", a.digest),
        Mark("on-b", "v3", b.digest),
        Mark("on-c", "v3", c.digest),
        Mark("on-x", "v9", x.digest),
        Mark("leaving", "v3", c.digest, leaving=True),
        Mark("once", "v3", None),
    ]
    kept = [(ANSWERING, made.digest), ("v4", x.digest), ("v1", a.digest), ("v0", None)]
    found = trace(links.store, BASE, marks, kept, {c.digest}, {"once"})
    moved = {"a": ANSWERING, "c": ANSWERING, "x": "v4", "on-a": ANSWERING, "on-x": "v4"}
    assert found == Provenance(moved, ("on-b", "on-c", "once"), ("b", "leaving"))
    assert found.report == {"lost": ["b", "leaving"], "queued_again": ["on-b", "on-c", "once"]}
    assert set(found.with_lost_again().again) == {"on-b", "on-c", "once", "b", "leaving"}
    assert trace(links.store, BASE, [], [("v1", "no such directory")]) == Provenance(), "nothing is read for nobody"
