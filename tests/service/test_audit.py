"""Who did what is written down: in the log, and in a stream of each namespace."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from conftest import Taught
from serving import Http, ThreadServer, refused
from structlog.testing import LogCapture

from service import keys
from service.api_keys import ANYBODY
from service.audit import KEPT, LONGEST_ID, MOST_IDS, Audit
from service.connection import Client, connect
from service.errors import UnknownVersion

ClientOf = Callable[..., Http]
FIELDS = {"at", "key", "name", "action", "namespace", "ids", "outcome"}


def latest(http: Http, limit: int = 1, **query: Any) -> list[dict[str, Any]]:
    return list(http.get("/audit", params={"limit": limit, **query}).raise_for_status().json()["audit"])


def test_each_action_is_one_entry_with_who_what_and_outcome(client_of: ClientOf, facts: list[Taught]) -> None:
    client = client_of("admin", name="ops", namespaces=["spare"])
    query = {"namespace": "spare"}
    [job] = client.post("/learn", json={"text": facts[7].text, "id": "audited", "wait": 60, **query}).json()["jobs"]
    canary = client.post("/canaries", json={"canaries": [{"prompt": "Q: Who? A:", "answer": " I."}], **query}).json()["canaries"][0]
    client.delete("/canaries", params=query)
    refused(client.post("/versions/rollback", json={"to": "v99", **query}), 404)
    client.post("/versions/rollback", json={"to": "v0", **query}).raise_for_status()
    client.post("/versions/v0/export", json=query)
    collected = client.post("/versions/collect", json={"keep": 9, **query}).json()
    forgotten = client.request("DELETE", "/documents/audited", params=query).json()
    refused(client.post(f"/dead-letters/{job['job_id']}/retry"), 409)
    refused(client.post(f"/learn/{job['job_id']}/cancel"), 409)
    found = latest(client, 10, **query)
    assert all(set(entry) == FIELDS for entry in found)
    assert {(entry["name"], entry["namespace"]) for entry in found} == {("ops", "spare")}
    assert [entry["at"] for entry in found] == sorted((entry["at"] for entry in found), reverse=True)
    wanted = [
        ("learn", ["audited"], "ok"),
        ("canaries.add", [canary["id"]], "ok"),
        ("canaries.remove", ["all"], "ok"),
        ("rollback", ["v99"], "unknown_version"),
        ("rollback", ["v0"], "ok"),
        ("export", ["v0"], "ok"),
        ("collect", [collected["job_id"]], "ok"),
        ("forget", ["audited", forgotten["job_id"]], "ok"),
        ("dead_letters.retry", [job["job_id"]], "not_a_dead_letter"),
        ("cancel", [job["job_id"]], "not_cancellable"),
    ]
    assert [(e["action"], e["ids"], e["outcome"]) for e in reversed(found)] == wanted


def test_keys_are_in_the_audit_of_the_server_by_their_ids(guarded: ThreadServer, client_of: ClientOf) -> None:
    made = guarded.http.post("/keys", json={"name": "a", "scopes": ["learn"]}).json()
    guarded.http.delete(f"/keys/{made['id']}")
    guarded.http.delete(f"/keys/{made['id']}")
    found = [e for e in latest(guarded.http, 20) if e["ids"] == [made["id"]]]
    assert [(e["action"], e["outcome"]) for e in found] == [
        ("keys.revoke", "unknown_key"),
        ("keys.revoke", "ok"),
        ("keys.create", "ok"),
    ]
    assert {(e["key"], e["namespace"]) for e in found} == {("admin", None)}
    assert made["key"] not in json.dumps(latest(guarded.http, 100))
    assert not [e for e in latest(client_of("admin", namespaces=["acme"]), 100) if e["namespace"] != "acme"]


def test_an_open_server_says_that_it_was_anybody(http: Http, namespace: str) -> None:
    http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
    [entry] = latest(http, namespace=namespace)
    assert (entry["key"], entry["name"], entry["action"]) == ("-", "anybody", "rollback")


@pytest.mark.anyio
async def test_a_stream_is_bounded_and_so_is_an_entry(client: Client) -> None:
    audit = Audit(client)
    await audit.write(ANYBODY, "learn", "default", ["x" * 10_000] * 10_000)
    [entry] = await audit.read(["default"], 10)
    assert len(entry.ids) == MOST_IDS
    assert {len(one) for one in entry.ids} == {LONGEST_ID}
    async with client.pipeline(transaction=False) as pipe:
        for _ in range(KEPT + 300):
            pipe.xadd(keys.audit("default"), {"key": "-"}, maxlen=KEPT)
        await pipe.execute()
    await audit.write(ANYBODY, "learn", "default", ["last"])
    assert await client.xlen(keys.audit("default")) < KEPT + 300
    assert [entry.ids for entry in await audit.read(["default"], 1)] == [("last",)]


@pytest.mark.anyio
async def test_entries_of_several_namespaces_come_in_one_order(client: Client) -> None:
    audit = Audit(client)
    for n in range(6):
        await audit.write(ANYBODY, "learn", ("default", "other", None)[n % 3], [str(n)])
    assert [entry.ids for entry in await audit.read(["default", "other", None], 4)] == [("5",), ("4",), ("3",), ("2",)]
    assert [entry.ids for entry in await audit.read(["other"], 4)] == [("4",), ("1",)]


@pytest.mark.anyio
async def test_without_redis_an_entry_is_in_the_log_and_nothing_fails() -> None:
    away, capture = connect("redis://127.0.0.1:1/0"), LogCapture()
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[capture])
    try:
        async with Audit(away).of(ANYBODY, "forget", "default", "doc") as ids:
            ids.append("job")
        with pytest.raises(UnknownVersion):
            async with Audit(away).of(ANYBODY, "rollback", "default", "v9"):
                raise UnknownVersion("no")
    finally:
        structlog.configure(processors=before)
        await away.aclose()
    assert [(e["event"], e["action"], e["ids"], e["outcome"]) for e in capture.entries] == [
        ("audit", "forget", ["doc", "job"], "ok"),
        ("audit", "rollback", ["v9"], "unknown_version"),
    ]
