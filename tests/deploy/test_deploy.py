"""What is deployed agrees with what is served: names of metrics, settings, services and files. No container engine needed."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
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
DASHBOARDS = {path.stem: path for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))}
HOME = DASHBOARDS["overview"]
FROM_PROMETHEUS = {"job", "instance"}
"""Labels that scraping adds."""
PROMETHEUS_OWN = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
"""Metrics that nobody exports."""
SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
GRAFANA_VARIABLES = {"$__rate_interval": "20s", "$__range": "30m", "$namespace": ".+"}
HARDENED = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


def _panels(*names: str) -> list[dict[str, Any]]:
    """Of these dashboards; none named: of all."""
    boards = [json.loads(DASHBOARDS[name].read_text()) for name in names or DASHBOARDS]
    return [panel for board in boards for panel in board["panels"] if panel["type"] != "row"]


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> list[str]:
    return [*(target["expr"] for panel in _panels() for target in panel["targets"]), *(rule["expr"] for rule in _rules())]


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


@cache
def _exported() -> dict[str, set[str]]:
    """Sample names that there may be, with their labels: what /metrics shows, what rules record, what Prometheus adds."""
    metrics = Metrics()
    others = PROMETHEUS_OWN | {rule["record"]: {"namespace"} for rule in _rules() if "record" in rule}
    labels = {m._name: set(m._labelnames) for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    return others | {
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
    assert len(_expressions()) > 60
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
    bounds = {
        (s.name, s.labels["le"]) for f in Metrics(["default"]).registry.collect() for s in f.samples if s.name.endswith("_bucket")
    }
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


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_panels_fill_rows_without_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARDS[name].read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23
    assert all((x, y) in taken for x in range(24) for y in range(max(y for _, y in taken) + 1)), "a hole in the grid"


def test_the_committed_dashboards_are_what_the_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEPLOY / "grafana" / "dashboard.py", tmp_path], check=True, timeout=60)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in DASHBOARDS.values()}, "run deploy/grafana/dashboard.py"


def test_there_are_three_dashboards_that_link_to_one_another() -> None:
    boards = {name: json.loads(path.read_text()) for name, path in DASHBOARDS.items()}
    assert {name: board["uid"] for name, board in boards.items()} == {
        "overview": "infold", "learning": "infold-learning", "drift": "infold-drift",
    }  # fmt: skip
    for board in boards.values():
        (link,) = board["links"]
        assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", board["tags"], True, True)


def test_the_headlines_of_the_overview_are_update_latency_and_drift() -> None:
    first, second, *others = _panels("overview")
    assert [first["title"], second["title"]] == ["Update latency", "Drift from the base model"]
    assert (first["gridPos"]["y"], second["gridPos"]["y"]) == (0, 0)
    size = first["gridPos"]["w"] * first["gridPos"]["h"]
    assert size == second["gridPos"]["w"] * second["gridPos"]["h"]
    assert all(panel["gridPos"]["w"] * panel["gridPos"]["h"] < size for panel in others)


def test_a_file_of_the_dashboards_is_short_enough_to_be_read_at_once() -> None:
    assert all(len(path.read_text().splitlines()) < 300 for path in (DEPLOY / "grafana").glob("*.py"))


def _red_from(title: str) -> float | None:
    """Where the panels of that title turn red; None: at their least value."""
    steps = [panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in _panels() if panel["title"] == title]
    (found,) = {step["value"] for one in steps for step in one if step["color"] == "red"}
    return found


def test_panels_turn_red_at_the_servers_defaults() -> None:
    defaults = Settings()
    assert _red_from("Drift from the base model") == GuardConfig().kl_total
    assert _red_from("Queue depth") == defaults.max_queue
    assert _red_from("Canaries") is None
    (canaries,) = (panel for panel in _panels() if panel["title"] == "Canaries")
    steps = canaries["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[1] == {"color": "orange", "value": defaults.canary_floor}, "red ends at the floor"


def test_every_query_of_what_a_namespace_has_asks_for_those_chosen() -> None:
    """Drift, retention, rollbacks, updates, learn-to-live and the queue are a namespace's own; only the verdict on all is not."""
    everywhere = {"Without a writer"}
    for panel in _panels():
        for target in panel["targets"]:
            own = [s for s in _selectors(target["expr"]) if "namespace" in _exported()[s.name]]
            chosen = [s for s in own if "namespace" in {matcher.name for matcher in s.matchers.matchers}]
            assert own == chosen or panel["title"] in everywhere, target["expr"]


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
    assert mounted[provider["options"]["path"]] == HOME.parent
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert mounted[str(home.parent)] / home.name == HOME


def test_prometheus_scrapes_the_infold_service_where_it_listens() -> None:
    (job,) = _prometheus()["scrape_configs"]
    assert job["job_name"] == "infold"
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in _compose()["services"]
    assert port == _image_environment()["INFOLD_PORT"] == _last("cpu", "EXPOSE")
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_prometheus_finds_the_rules_that_compose_mounts() -> None:
    volumes = dict(volume.split(":")[:2] for volume in _compose()["services"]["prometheus"]["volumes"])
    places = {Path(target): ROOT / "deploy" / source for source, target in volumes.items() if source.startswith(".")}
    (config,) = (target for target in places if target.name == "prometheus.yml")
    for name in _prometheus()["rule_files"]:
        assert places[config.parent / name].resolve() == (DEPLOY / "prometheus" / name).resolve()


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
    files = [ROOT / "Dockerfile", *DASHBOARDS.values(), *DEPLOY.glob("*.yaml"), DEPLOY / "README.md", ROOT / "docs" / "runbook.md"]
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
