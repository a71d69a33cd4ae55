"""What is deployed agrees with what is served: names of metrics, settings, services and files. No container engine needed."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from adapters.config import GuardConfig
from service.errors import InvalidSettings
from service.gate import check_exposure
from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "infold.json"
FROM_PROMETHEUS = {"job", "instance"}
"""Labels that scraping adds."""
SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
GRAFANA_VARIABLES = {"$__rate_interval": "20s", "$__range": "30m", "$namespace": ".+"}
HARDENED = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def _expressions() -> list[str]:
    return [target["expr"] for panel in _panels() for target in panel["targets"]]


def _parsed(expression: str) -> promql_parser.Expr:
    for variable, value in GRAFANA_VARIABLES.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def _nodes(expression: str, kind: type) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(_parsed(expression), lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


def _selectors(expression: str) -> list[Any]:
    ranges = [node.vector_selector for node in _nodes(expression, promql_parser.MatrixSelector)]
    return [*_nodes(expression, promql_parser.VectorSelector), *ranges]


def _exported() -> dict[str, set[str]]:
    """Sample names that /metrics may show, with their labels."""
    metrics = Metrics()
    labels = {m._name: set(m._labelnames) for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    return {
        family.name + suffix: labels.get(family.name, set()) | ({"le"} if suffix == "_bucket" else set())
        for family in metrics.registry.collect()
        for suffix in SAMPLES[family.type]
    }


def _compose(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


def _prometheus() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())


def _stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of the Dockerfile by stage; a stage starts with those of the stage it is made from."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            image, _, stage = rest.split()
            current = stages[stage] = list(stages.get(image, []))
        else:
            current.append((instruction, rest))
    return stages


def _last(stage: str, instruction: str) -> str:
    return [rest for name, rest in _stages()[stage] if name == instruction][-1]


def _image_environment() -> dict[str, str]:
    pairs = shlex.split(" ".join(rest for name, rest in _stages()["cpu"] if name == "ENV"))
    return dict(pair.split("=", 1) for pair in pairs)


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", DEPLOY / "grafana" / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_setting(variable: str) -> bool:
    *groups, name = variable.removeprefix("INFOLD_").lower().split("__")
    fields: dict[str, Any] = dict(Settings.model_fields)
    for group in groups:
        inner = fields.get(group)
        if inner is None:
            return False
        nested = getattr(inner, "annotation", None) or inner.type
        fields = getattr(nested, "__dataclass_fields__", {})  # none: not nested
    return name in fields


def test_every_expression_uses_metrics_and_labels_that_the_server_exports() -> None:
    exported = _exported()
    assert len(_expressions()) > 20
    for expression in _expressions():
        selectors = _selectors(expression)
        assert selectors, expression
        allowed = set(FROM_PROMETHEUS)
        for selector in selectors:
            assert selector.name in exported, f"{selector.name} in {expression}"
            labels = exported[selector.name]
            matched = {matcher.name for matcher in selector.matchers.matchers}
            assert matched <= labels | FROM_PROMETHEUS, expression
            allowed |= labels
        grouped = {
            label for node in _nodes(expression, promql_parser.AggregateExpr) if node.modifier for label in node.modifier.labels
        }
        assert grouped <= allowed, expression


def test_every_bucket_that_an_expression_names_is_a_bucket_of_that_histogram() -> None:
    bounds = {(s.name, s.labels["le"]) for f in Metrics().registry.collect() for s in f.samples if s.name.endswith("_bucket")}
    named = {
        (selector.name, matcher.value)
        for expression in _expressions()
        for selector in _selectors(expression)
        for matcher in selector.matchers.matchers
        if matcher.name == "le"
    }
    assert named
    assert named <= bounds


def test_every_legend_shows_a_label_that_its_query_keeps() -> None:
    for panel in _panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = {
                label
                for node in _nodes(target["expr"], promql_parser.AggregateExpr)
                if node.modifier
                for label in node.modifier.labels
            }
            plain = {label for selector in _selectors(target["expr"]) for label in _exported()[selector.name]} | FROM_PROMETHEUS
            assert shown <= (kept or plain), panel["title"]


def test_every_panel_has_a_unit_and_says_what_to_do() -> None:
    for panel in _panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["datasource"]["uid"] == "prometheus"


def test_the_panels_fill_rows_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23
    assert all((x, y) in taken for x in range(24) for y in range(max(y for _, y in taken) + 1)), "a hole in the grid"


def test_the_committed_dashboard_is_what_the_script_writes() -> None:
    assert DASHBOARD.read_text() == _script().render(), "run deploy/grafana/dashboard.py"


def test_the_drift_panel_turns_red_at_the_guards_budget() -> None:
    (panel,) = (panel for panel in _panels() if panel["title"] == "Drift from the base model")
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": GuardConfig().kl_total}


def test_grafana_is_provisioned_with_the_datasource_and_the_directory_of_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "infold.yaml").read_text())["providers"]
    services = _compose()["services"]
    assert source["uid"] == "prometheus"
    assert source["url"].removeprefix("http://").split(":")[0] in services
    assert source["jsonData"]["timeInterval"] == _prometheus()["global"]["scrape_interval"]
    grafana = services["grafana"]
    mounted = {target: ROOT / "deploy" / host for host, target in (v.split(":")[:2] for v in grafana["volumes"])}
    assert mounted[provider["options"]["path"]] == DASHBOARD.parent
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert mounted[str(home.parent)] / home.name == DASHBOARD


def test_prometheus_scrapes_the_infold_service_where_it_listens() -> None:
    (job,) = _prometheus()["scrape_configs"]
    assert job["job_name"] == "infold"
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in _compose()["services"]
    assert port == _image_environment()["INFOLD_PORT"] == _last("cpu", "EXPOSE")
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_every_file_and_volume_that_compose_mounts_exists() -> None:
    compose = _compose()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], f"{name}: {volume}"


def test_nothing_is_published_beyond_this_machine_and_nothing_may_gain_privileges() -> None:
    for name, service in _compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert {key: service[key] for key in HARDENED} == HARDENED, name
        assert re.search(r":v?\d", service["image"]) or "build" in service, f"{name} has no version"
        assert service["healthcheck"]["test"], name


def test_infold_waits_for_valkey_and_is_given_time_to_drain() -> None:
    services = _compose()["services"]
    infold, valkey = services["infold"], services["valkey"]
    assert infold["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert "valkey:6379" in infold["environment"]["INFOLD_REDIS_URL"]
    assert infold["read_only"]
    assert infold["tmpfs"] == ["/tmp"]
    assert int(infold["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_seconds"].default
    command = valkey["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--appendfsync") + 1] == "always"


def test_the_cuda_file_changes_only_what_a_gpu_needs() -> None:
    infold = _compose("compose.cuda.yaml")["services"]["infold"]
    assert infold["build"]["target"] == "cuda"
    assert infold["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert set(_compose("compose.cuda.yaml")["services"]) == {"infold"}


def test_grafana_starts_only_with_a_password_of_the_operators() -> None:
    environment = _compose()["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_runs_as_a_user_without_privileges_and_stops_on_sigterm(target: str) -> None:
    uid, _, gid = _last(target, "USER").partition(":")
    assert int(uid) == int(gid) == 10001
    assert _last(target, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(_last(target, "ENTRYPOINT")) == ["infold"]
    assert json.loads(_last(target, "CMD")) == ["serve"]
    assert _last(target, "VOLUME") == "/data"


def test_the_health_check_of_the_image_is_a_program_that_asks_healthz() -> None:
    check = _last("cpu", "HEALTHCHECK")
    python, flag, program = json.loads(check[check.index("CMD") + 3 :])
    assert (python, flag) == ("python", "-c")
    compile(program, "healthcheck", "exec")
    assert "/healthz" in program


def test_the_image_is_built_for_the_cpu_unless_told_otherwise() -> None:
    assert list(_stages())[-1] == "cpu"


def test_the_image_has_the_torch_that_was_tested() -> None:
    (pinned,) = re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for stage in ("torch-cpu", "torch-cuda"):
        assert _last(stage, "RUN").split()[-1] == pinned


def test_the_build_is_sent_exactly_what_it_copies() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for instructions in _stages().values()
        for name, rest in instructions
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_every_variable_named_in_deployment_files_is_a_setting() -> None:
    files = [ROOT / "Dockerfile", DASHBOARD, *DEPLOY.glob("*.yaml"), DEPLOY / "README.md"]
    named = {name for file in files for name in re.findall(r"\bINFOLD_[A-Z_]*[A-Z]\b", file.read_text())}
    assert {"INFOLD_HOST", "INFOLD_DATA_DIR", "INFOLD_CACHE_DIR", "INFOLD_REDIS_URL"} <= named
    assert {name for name in named if not _is_setting(name)} <= {"INFOLD_API_KEY"}  # of commands


def test_a_variable_that_is_no_setting_is_noticed() -> None:
    assert _is_setting("INFOLD_LEARN__GUARD__KL_TOTAL")
    assert not _is_setting("INFOLD_LEARN__GUARD__KL_TOTALS")
    assert not _is_setting("INFOLD_REDIS_URI")
    assert not _is_setting("INFOLD_LEARNER__VIEWS")


def test_infold_starts_in_its_container_only_with_a_key_of_the_operators_which_prometheus_shows() -> None:
    compose = _compose()
    assert compose["services"]["infold"]["environment"]["INFOLD_ADMIN_KEY"].startswith("${INFOLD_ADMIN_KEY:?")
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert compose["secrets"][secret] == {"environment": "INFOLD_ADMIN_KEY"}
    (job,) = _prometheus()["scrape_configs"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    with pytest.raises(InvalidSettings):
        check_exposure(Settings(host=_image_environment()["INFOLD_HOST"]))
