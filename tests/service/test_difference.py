"""What lies between two versions, over HTTP: an exact account of documents, weights and probes."""

from typing import Any

import pytest
from conftest import Taught, learn_one
from serving import Http, ThreadServer, refused

Learnt = tuple[Taught, dict[str, Any]]


def diff(http: Http, namespace: str, old: str, new: str) -> dict[str, Any]:
    answer = http.get("/versions/diff", params={"from": old, "to": new, "namespace": namespace})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture
def two(http: Http, namespace: str, facts: list[Taught], learned: Learnt) -> list[dict[str, Any]]:
    """Jobs of two documents that were learned, the second on top of the first."""
    return [learned[1], learn_one(http, namespace, facts[10:])[1]]


def test_the_norms_are_those_of_the_weights_that_are_served(
    server: ThreadServer, http: Http, namespace: str, two: list[Any]
) -> None:
    first, last = (job["version"] for job in two)
    found = diff(http, namespace, first, last)
    one, other = (server.runtime.load_weights(server.runtime.ledger.resolve(namespace, v).digest or "") for v in (first, last))
    base = server.runtime.learner.workspace.base_weights
    assert [layer["layer"] for layer in found["layers"]] == list(base)
    for layer in found["layers"]:
        name = layer["layer"]
        expected = float((other[name].double() - one[name].double()).norm())
        assert layer["norm"] == pytest.approx(expected, rel=1e-3)
        assert layer["relative"] == pytest.approx(expected / float(base[name].norm()), rel=1e-3)
    assert any(layer["norm"] > 0 for layer in found["layers"])


def test_documents_and_probes_change_their_signs_with_the_direction(http: Http, namespace: str, two: list[Any]) -> None:
    first, last = two
    there, back = (diff(http, namespace, *pair) for pair in (("v0", last["version"]), (last["version"], "v0")))
    listed = [document for version in http.versions(namespace) for document in version["documents"]]
    assert there["documents"] == {"added": listed, "removed": []}
    assert back["documents"] == {"added": [], "removed": listed}
    assert there["layers"] == back["layers"]
    assert (
        there["drift"]["kl"]["to"] == back["drift"]["kl"]["from"] == last["report"]["drift"]["kl"] == there["drift"]["kl"]["change"]
    )
    between = diff(http, namespace, first["version"], last["version"])
    assert between["drift"]["kl"]["change"] == last["report"]["drift"]["kl"] - first["report"]["drift"]["kl"]
    assert last["document_id"] in between["documents"]["added"]
    assert first["document_id"] not in between["documents"]["added"]


def test_two_branches_differ_by_what_each_has_learned(http: Http, namespace: str, facts: list[Taught], learned: Learnt) -> None:
    _, one = learned
    http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
    _, other = learn_one(http, namespace, facts[10:])
    found = diff(http, namespace, one["version"], other["version"])
    assert one["document_id"] in found["documents"]["removed"]
    assert other["document_id"] in found["documents"]["added"]
    assert not {*found["documents"]["removed"]} & {*found["documents"]["added"]}


def test_nothing_lies_between_a_version_and_itself(http: Http, namespace: str, learned: Learnt) -> None:
    for version in ("v0", learned[1]["version"]):
        found = diff(http, namespace, version, version)
        assert found["documents"] == {"added": [], "removed": []}
        assert all(layer["norm"] == 0 for layer in found["layers"])
        assert all(probe["change"] == 0 for probe in found["drift"].values())


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("from=v0&to=v99", 404, "unknown_version"),
        ("from=diff&to=v0", 404, "unknown_version"),
        ("from=v0&to=v0&namespace=nowhere", 404, "unknown_namespace"),
        ("from=v0", 400, None),
        ("", 400, None),
    ],
)
def test_what_cannot_be_compared_is_refused(http: Http, query: str, status: int, code: str | None) -> None:
    refused(http.get(f"/versions/diff?{query}"), status, code)
