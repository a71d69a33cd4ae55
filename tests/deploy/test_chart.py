"""The Helm chart, rendered by a real `helm` and validated against the schemas of Kubernetes."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from test_deploy import ROOT, _is_setting

from service.settings import Settings

CHART = ROOT / "deploy" / "helm" / "infold"
HELM = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(HELM is None and "CI" not in os.environ, reason="there is no helm; `make test` fetches one")
GPU = ("--values", str(CHART / "values-gpu.yaml"))
REDIS = ("--set", "redis.url=redis://valkey:6379/0")
WORKER = (*REDIS, "--set", "worker.enabled=true")
INGRESS = ("--set", "ingress.enabled=true,ingress.className=nginx,ingress.tlsSecret=infold-tls")
WATCHED = ("--set", "monitoring.enabled=true,monitoring.labels.release=prometheus")
VARIATIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "gpu": GPU,
    "worker": WORKER,
    "gpu-worker": (*GPU, *WORKER),
    "redis": REDIS,
    "redis-of-a-secret": ("--set", "redis.secret=valkey"),
    "ingress": INGRESS,
    "no-network-policy": ("--set", "networkPolicy.enabled=false,podDisruptionBudget.enabled=false"),
    "watched": (*WORKER, *WATCHED),
    "claim": ("--set", "persistence.existingClaim=mine,persistence.storageClass=fast", *WORKER),
    "settings": ("--set", "settings.slots=8,settings.learn__guard__kl_total=0.5,traces=http://collector:4318,model=org/model"),
}
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that are not Kubernetes' own."""


@cache
def _helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert HELM is not None, "tests/deploy/fetch_helm.py fetches it"
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


def _render(*flags: str, release: str = "infold") -> list[dict[str, Any]]:
    """What the chart makes of these flags."""
    done = _helm("template", release, str(CHART), "--namespace", "llm", *flags)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def _one(kind: str, *flags: str, release: str = "infold") -> dict[str, Any]:
    [found] = [found for found in _render(*flags, release=release) if found["kind"] == kind]
    return found


def _container(kind: str, *flags: str) -> dict[str, Any]:
    [found] = _one(kind, *flags)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def _environment(kind: str, *flags: str) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in _container(kind, *flags)["env"]}


@pytest.fixture(params=VARIATIONS.values(), ids=VARIATIONS.keys())
def flags(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


def test_helm_itself_finds_nothing_to_complain_about(flags: tuple[str, ...]) -> None:
    done = _helm("lint", "--strict", str(CHART), *flags)
    assert done.returncode == 0, done.stdout


def test_every_manifest_is_one_of_kubernetes_without_an_unknown_field(flags: tuple[str, ...]) -> None:
    """Of the newest version; and of the oldest that the chart names."""
    own = [manifest for manifest in _render(*flags) if manifest["kind"] not in CUSTOM]
    assert {"StatefulSet", "Service", "ServiceAccount"} <= {manifest["kind"] for manifest in own}
    for manifest in own:
        for version in ("1.25", "1.37") if flags == VARIATIONS["watched"] else ("1.37",):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_field_would_be_noticed() -> None:
    manifest = _one("StatefulSet")
    manifest["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_no_two_manifests_have_the_same_name(flags: tuple[str, ...]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in _render(*flags)]
    assert len(names) == len(set(names))


def test_no_pod_may_gain_anything(flags: tuple[str, ...]) -> None:
    """Another user than root, nothing written but /data and /tmp, no capability, no token, no privilege."""
    for template in (m["spec"]["template"] for m in _render(*flags) if m["kind"] in ("StatefulSet", "Deployment")):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert {pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
            assert container["resources"]["limits"]["memory"]


def test_the_services_of_the_namespace_set_no_variable_of_ours(flags: tuple[str, ...]) -> None:
    """Kubernetes would set INFOLD_PORT=tcp://... for a service that is called infold, which is no port."""
    for template in (m["spec"]["template"] for m in _render(*flags) if m["kind"] in ("StatefulSet", "Deployment")):
        assert template["spec"]["enableServiceLinks"] is False


def test_every_variable_is_a_setting(flags: tuple[str, ...]) -> None:
    for kind in ("StatefulSet", "Deployment"):
        for manifest in _render(*flags):
            if manifest["kind"] == kind:
                [container] = manifest["spec"]["template"]["spec"]["containers"]
                named = {entry["name"] for entry in container["env"]}
                assert {name for name in named if not _is_setting(name)} == set()


def test_the_variables_are_read_as_they_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _environment("StatefulSet", *VARIATIONS["settings"], *WORKER, "--set", "namespaces={news,laws}")
    for name, value in environment.items():
        if isinstance(value, str):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.namespaces, settings.slots, settings.learner) == (("news", "laws"), 8, "elsewhere")
    assert (settings.learn.guard.kl_total, settings.model, settings.traces) == (0.5, "org/model", "http://collector:4318")


def test_kubernetes_waits_longer_than_the_server_drains() -> None:
    """Running requests drain first, then the running job."""
    for drain in (0, 30, 600):
        flags = ("--set", f"drainSeconds={drain}", *WORKER)
        for manifest in (_one("StatefulSet", *flags), _one("Deployment", *flags)):
            assert manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * drain
        assert _environment("StatefulSet", *flags)["INFOLD_DRAIN_SECONDS"] == str(drain)


def test_alive_and_ready_are_asked_where_they_are_answered() -> None:
    container = _container("StatefulSet")
    asked = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": "/readyz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert {container[probe]["httpGet"]["port"] for probe in asked} == {container["ports"][0]["name"]}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_the_server_learns_itself_unless_there_is_a_worker() -> None:
    assert _environment("StatefulSet")["INFOLD_LEARNER"] == "inside"
    assert _container("StatefulSet")["args"] == ["serve"]
    assert _environment("StatefulSet", *WORKER)["INFOLD_LEARNER"] == "elsewhere"
    assert _container("Deployment", *WORKER)["args"] == ["worker"]
    assert "INFOLD_ADMIN_KEY" not in _environment("Deployment", *WORKER), "it asks nobody and answers nobody"


def test_a_worker_shares_the_servers_volume_and_its_node() -> None:
    """On another node only where the volume can be mounted on both."""
    worker = _one("Deployment", *WORKER, release="prod")["spec"]["template"]["spec"]
    server = _one("StatefulSet", *WORKER, release="prod")
    [claim] = [v["persistentVolumeClaim"]["claimName"] for v in worker["volumes"] if v["name"] == "data"]
    assert claim == f"{server['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{server['metadata']['name']}-0"
    [rule] = worker["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"].items() <= server["spec"]["template"]["metadata"]["labels"].items()
    shared = _one("Deployment", *WORKER, "--set", "persistence.accessModes={ReadWriteMany}")
    assert "affinity" not in shared["spec"]["template"]["spec"]


def test_a_worker_without_a_redis_that_it_can_reach_is_refused() -> None:
    done = _helm("template", "infold", str(CHART), "--set", "worker.enabled=true")
    assert done.returncode != 0
    assert "redis.url or redis.secret" in done.stderr


def test_with_a_claim_of_the_operators_no_other_is_made() -> None:
    server = _one("StatefulSet", "--set", "persistence.existingClaim=mine")["spec"]
    assert "volumeClaimTemplates" not in server
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in server["template"]["spec"]["volumes"]


def test_each_selector_selects_what_it_is_meant_to() -> None:
    manifests = _render(*WORKER, *WATCHED)
    pods = {m["metadata"]["name"]: m["spec"]["template"] for m in manifests if m["kind"] in ("StatefulSet", "Deployment")}

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()}

    for manifest in manifests:
        name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
        if manifest["kind"] == "Service":
            [port] = spec["ports"]
            assert selected(spec["selector"]) == {name}
            assert [p["name"] for c in pods[name]["spec"]["containers"] for p in c["ports"]] == [port["targetPort"]]
        elif manifest["kind"] in ("StatefulSet", "Deployment"):
            assert selected(spec["selector"]["matchLabels"]) == {name}
        elif manifest["kind"] == "NetworkPolicy":
            assert selected(spec["podSelector"]["matchLabels"]) == set(pods)
        elif manifest["kind"] == "PodDisruptionBudget":
            assert (selected(spec["selector"]["matchLabels"]), spec["maxUnavailable"]) == (set(pods), 1)


def test_strangers_reach_neither_the_server_nor_what_a_worker_measures() -> None:
    policy = _one("NetworkPolicy", *WORKER)["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    asked, measured = policy["ingress"]
    assert asked["from"] == [{"podSelector": {}}]
    assert [port["port"] for port in asked["ports"]] == ["http"]
    assert [port["port"] for port in measured["ports"]] == ["http", "metrics"]
    closed = _one("NetworkPolicy", "--set-json", "networkPolicy.from=[],networkPolicy.metricsFrom=[]")
    assert not closed["spec"]["ingress"]


def test_only_who_asks_for_an_ingress_gets_one() -> None:
    assert "Ingress" not in {manifest["kind"] for manifest in _render()}
    spec = _one("Ingress", *INGRESS)["spec"]
    [rule] = spec["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = _one("Service")
    assert (backend["name"], backend["port"]["name"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["name"])
    assert spec["tls"] == [{"hosts": [rule["host"]], "secretName": "infold-tls"}]


def test_a_gpu_is_asked_for_where_the_device_is_one() -> None:
    for kind in ("StatefulSet", "Deployment"):
        container = _container(kind, *GPU, *WORKER)
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert _environment(kind, *GPU, *WORKER)["INFOLD_DEVICE"] == "cuda"
        assert container["image"] == "infold:cuda"
        assert "nvidia.com/gpu" not in _container(kind, *WORKER)["resources"]["limits"]


def test_secrets_are_named_and_never_written() -> None:
    environment = _environment("StatefulSet", "--set", "redis.secret=valkey,redis.key=url")
    assert environment["INFOLD_ADMIN_KEY"] == {"secretKeyRef": {"name": "infold-admin", "key": "admin-key"}}
    assert environment["INFOLD_REDIS_URL"] == {"secretKeyRef": {"name": "valkey", "key": "url"}}
    assert "Secret" not in {manifest["kind"] for manifest in _render()}


def test_prometheus_is_told_to_scrape_server_and_worker_with_a_key() -> None:
    """The shape of a ServiceMonitor is the Prometheus operator's: labels of Services, ports by name."""
    monitor = _one("ServiceMonitor", *WORKER, *WATCHED)
    services = [m for m in _render(*WORKER, *WATCHED) if m["kind"] == "Service"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    spec = monitor["spec"]
    assert set(spec) == {"jobLabel", "selector", "endpoints"}
    for service in services:
        assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert service["metadata"]["labels"][spec["jobLabel"]] == "infold", "the job that dashboards and alerts name"
    ports = {endpoint["port"]: endpoint for endpoint in spec["endpoints"]}
    assert set(ports) == {service["spec"]["ports"][0]["name"] for service in services}
    assert ports["http"]["authorization"] == {"credentials": {"name": "infold-metrics", "key": "api-key"}}
    assert all(endpoint["path"] == "/metrics" for endpoint in spec["endpoints"])


def test_rules_of_prometheus_are_passed_on_as_they_are(tmp_path: Path) -> None:
    rules = {
        "groups": [{"name": "infold", "rules": [{"alert": "A", "expr": "up == 0", "annotations": {"a": "{{ $labels.job }}"}}]}]
    }
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump(rules))
    assert "PrometheusRule" not in {manifest["kind"] for manifest in _render(*WATCHED)}
    assert _one("PrometheusRule", *WATCHED, "--set-file", f"monitoring.rules={file}")["spec"] == rules


@pytest.mark.parametrize(
    "wrong",
    [
        "replicas=2",
        "worker.enable=true",
        "drainSeconds=soon",
        "drainSeconds=-1",
        "device=tpu",
        "namespaces={Not OK}",
        "settings.learn-guard=1",
        "persistence.size=lots",
        "persistence.accessModes={ReadOnlyMany}",
        "service.port=0",
        "redis.url=http://valkey",
        "traces=collector:4318",
        "image.tag=",
        "adminKey.secret=",
        "monitoring.interval=often",
        "networkPolicy.from=all",
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: str) -> None:
    done = _helm("template", "infold", str(CHART), "--set", wrong)
    assert done.returncode != 0, done.stdout
    assert "values don't meet the specifications of the schema" in done.stderr
    assert re.split(r"[.=]", wrong)[wrong.startswith("settings")] in done.stderr


def test_the_notes_say_how_to_make_the_first_key() -> None:
    done = _helm("install", "infold", str(CHART), "--dry-run=client", "--namespace", "llm")
    assert done.returncode == 0, done.stderr
    notes = done.stdout[done.stdout.index("NOTES:") :]
    assert "kubectl -n llm create secret generic infold-admin --from-literal=admin-key=" in notes
    assert len(notes.splitlines()) < 20
