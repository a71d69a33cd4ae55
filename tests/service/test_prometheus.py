"""A real Prometheus scrapes a real server under load: every expression of every panel and of every alert has data."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
import yaml
from conftest import Taught, learn_one
from serving import Http, ThreadServer, eventually, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIABLES = {"$__rate_interval": "5m", "$__range": "30m", "$namespace": ".+"}
SPLITS = {">", ">=", "<", "<=", "==", "!=", "and", "or", "unless"}
"""What alerts are asked with; on either side there must be something to ask about."""
pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None and "CI" not in os.environ, reason="prometheus is not installed (Debian: prometheus)"
)


class Prometheus:
    """The program, with the configuration that is deployed but for the target and how often it looks."""

    def __init__(self, directory: Path, target: str) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        del config["scrape_configs"][0]["authorization"]  # the server of this test is open
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        flags = {
            "config.file": directory / "prometheus.yml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": address,
        }
        self.log = directory / "log"
        with self.log.open("wb") as log:
            command = ["prometheus", *(f"--{name}={value}" for name, value in flags.items())]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        self._http = httpx2.Client(base_url=f"http://{address}/api/v1", timeout=30)

    def get(self, path: str, **query: str) -> Any:
        answer = self._http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now. Fails if Prometheus does not understand it."""
        found: list[dict[str, Any]] = self.get("/query", query=expression)["result"]
        return found

    @property
    def scrapes(self) -> int:
        """How often it has read what the server shows."""
        assert self._process.poll() is None, self.log.read_text()
        try:
            found = self.ask('sum_over_time(up{job="infold"}[10m])')
        except (httpx2.TransportError, AssertionError):  # it starts
            return 0
        return int(found[0]["value"][1]) if found else 0

    def stop(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def prometheus(tmp_path: Path, server: ThreadServer) -> Iterator[Prometheus]:
    """One that has seen the server before anything is done to it here."""
    started = Prometheus(tmp_path, server.url.removeprefix("http://"))
    try:
        eventually(lambda: started.scrapes)
        yield started
    finally:
        started.stop()


def panels() -> list[str]:
    """Every expression of every panel, Grafana's variables filled in."""
    boards = [json.loads(path.read_text()) for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")]
    found = {target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", [])}
    for variable, value in VARIABLES.items():
        found = {expression.replace(variable, value) for expression in found}
    return sorted(found)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def operands(node: Any) -> list[str]:
    """What is compared, without the comparisons."""
    if isinstance(node, promql_parser.ParenExpr):
        return operands(node.expr)
    if isinstance(node, promql_parser.BinaryExpr) and str(node.op) in SPLITS:
        return operands(node.lhs) + operands(node.rhs)
    selectors: list[Any] = []
    promql_parser.walk(node, lambda inner: selectors.append(inner) if "Selector" in type(inner).__name__ else None)
    return [str(node)] if selectors else []


def answered(prometheus: Prometheus, asked: list[str]) -> bool:
    """Whether everything has data; what has is asked no more, so that the others can be seen."""
    asked[:] = [expression for expression in asked if not prometheus.ask(expression)]
    return not asked


def use(http: Http, namespace: str, facts: list[Taught]) -> str:
    """All that a server does: learn, answer, ask canaries, roll back thrice, forget. Returns the id of what was forgotten."""
    taught, job = learn_one(http, namespace, facts)
    canaries = {"canaries": [{"prompt": taught.prompt, "answer": taught.answer.strip()}], "namespace": namespace}
    http.post("/canaries", json=canaries).raise_for_status()
    for fact in facts[4:6]:
        http.learned(text=fact.text, namespace=namespace)
        http.generate(fact.prompt, namespace=namespace)
    live = http.live(namespace)
    for version in (job["version"], live, job["version"]):
        http.post("/versions/rollback", json={"to": version, "namespace": namespace}).raise_for_status()
    http.delete("/canaries", params={"namespace": namespace}).raise_for_status()
    forgotten = http.delete(f"/documents/{job['document_id']}", params={"namespace": namespace, "wait": 60})
    assert forgotten.json()["status"] == "succeeded", forgotten.text
    return str(job["document_id"])


def test_every_panel_and_every_alert_has_data(prometheus: Prometheus, http: Http, namespace: str, facts: list[Taught]) -> None:
    """Of a server that is used, once it has been looked at again: panels as Grafana asks, alerts without their comparisons."""
    use(http, namespace, facts)
    seen = prometheus.scrapes
    eventually(lambda: prometheus.scrapes > seen + 1)
    asked = [*panels(), *(part for rule in rules() for part in operands(promql_parser.parse(rule["expr"])))]
    assert len(asked) > 70
    eventually(lambda: answered(prometheus, asked), 20)

    def evaluated() -> list[dict[str, Any]] | None:
        found = [rule for group in prometheus.get("/rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    assert {rule["name"]: rule.get("lastError") for rule in eventually(evaluated) if rule["health"] != "ok"} == {}
    for rule in rules():
        prometheus.ask(rule["expr"])  # as it is: understood, whether or not it holds

    def stormy() -> list[dict[str, Any]]:
        alerts = [alert for alert in prometheus.get("/alerts")["alerts"] if alert["labels"]["alertname"] == "InfoldRollbackStorm"]
        return [alert for alert in alerts if alert["labels"]["namespace"] == namespace]

    [storm] = eventually(stormy)
    assert storm["state"] == "firing", "three rollbacks at once are a storm, and it is noticed"
    assert storm["annotations"]["summary"] == f"{namespace} is rolled back again and again."
    assert f"rollbacks of {namespace} in" in storm["annotations"]["description"]


def test_what_was_measured_of_the_version_served_is_what_is_shown(http: Http, namespace: str, facts: list[Taught]) -> None:
    """Back on the base model drift is nothing, and on the version again what the guard measured of it."""
    _, job = learn_one(http, namespace, facts)
    measured = job["report"]["drift"]["kl"]
    assert measured > 0
    for version, drift in (("v0", 0.0), (job["version"], measured)):
        http.post("/versions/rollback", json={"to": version, "namespace": namespace}).raise_for_status()
        assert http.metric("infold_drift_kl_nats", namespace=namespace, probe="held_out") == drift
        assert http.metric("infold_retention_ratio", namespace=namespace) == 1
    assert http.metric("infold_rollbacks_total", namespace=namespace, reason="operator") == 2
