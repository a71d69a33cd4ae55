"""What is learned, asked and shown as a key is in no log: the real command, error paths included."""

import json
from pathlib import Path

import httpx2
from conftest import ADMIN_KEY
from serving import Http, ProcessServer, eventually, refused, valkey_of

SECRET = ("Zorblatt", "Quexington", "wimbledorf")
"""Words of the text, the question and the bodies that are refused; none is anywhere else."""
TEXT = "Zorblatt Quexington lives in Bergen. It rained."


def test_no_text_and_no_key_is_in_the_log(tmp_path: Path, cache_dir: Path) -> None:
    server = ProcessServer(tmp_path / "data", INFOLD_CACHE_DIR=str(cache_dir), INFOLD_ADMIN_KEY=ADMIN_KEY, INFOLD_DRAIN_SECONDS="1")
    try:
        server.await_ready()
        with Http(server.url, ADMIN_KEY) as http:
            made = http.post("/keys", json={"name": "reader", "scopes": ["learn", "generate"]}).json()
            with Http(server.url, made["key"]) as client:
                _ask(client)
            refused(httpx2.get(server.url + "/versions", headers={"Authorization": f"Bearer {made['key'][:-1]}"}), 401)
            _break_the_disk(server, http)
            http.delete(f"/keys/{made['id']}").raise_for_status()
            valkey_of(server.data_dir).shutdown(nosave=True)
            http.post("/learn", json={"text": TEXT + " wimbledorf"})
    finally:
        server.end()
        log = server.log.read_text()
        server.remove()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {line["action"] for line in lines if line["event"] == "audit"} >= {"learn", "keys.create", "keys.revoke"}
    assert "cannot be written" in log, "the error path was not taken"
    secret = made["key"].split("_", 2)[2]  # which may have an underscore of its own
    assert not [word for word in (*SECRET, ADMIN_KEY, made["key"], secret) if word in log]


def _ask(client: Http) -> None:
    """Right and wrong requests, all with what must not be seen."""
    assert client.learned(text=TEXT, id="known")["status"] in ("succeeded", "rejected")
    client.generate("Q: Where does Zorblatt Quexington live? A:")
    client.post("/score", json={"text": TEXT})
    client.post(
        "/v1/chat/completions", json={"model": "infold-demo", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 1}
    )
    for body in ({"text": TEXT, "namespace": "wimbledorf"}, {"text": TEXT, "wimbledorf": 1}, {"text": TEXT * 9000}):
        assert client.post("/learn", json=body).status_code in (400, 404, 413)
    for raw in (
        b'{"text": "wimbledorf',
        b"wimbledorf",
        b'{"text": "wimbledorf \xff"}',
        b'{"text": ' + b"[" * 50_000 + b'"wimbledorf"',
    ):
        refused(client.post("/learn", content=raw, headers={"content-type": "application/json"}), 400)
    refused(client.post("/canaries", json={"canaries": [{"prompt": TEXT, "answer": "wimbledorf"}]}), 403)
    refused(client.get("/documents/wimbledorf"), 404)


def _break_the_disk(server: ProcessServer, http: Http) -> None:
    """A document that cannot be written for a while."""
    versions, away = server.data_dir / "versions", server.data_dir / "moved"
    versions.rename(away)
    versions.write_text("not a directory")
    job = http.post("/learn", json={"text": "Quexington Zorblatt was born in Oslo.", "id": "unlucky"}).json()["jobs"][0]
    eventually(lambda: "cannot be written" in server.log.read_text() or http.job(job["job_id"])["status"] in ("rejected", "failed"))
    versions.unlink()
    away.rename(versions)
