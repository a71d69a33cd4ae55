"""Alerts fire when they should and not otherwise, and the runbook says what to do in commands that exist."""

import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import service.routes
from adapters.config import GuardConfig
from service.cli import app
from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
CASES = Path(__file__).with_name("alerts.test.yml")
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
WANTED = {
    "InfoldLearnToLiveBurnsFast", "InfoldLearnToLiveBurns", "InfoldQueueOld", "InfoldDeadLetters", "InfoldDriftBudget",
    "InfoldRollbackStorm", "InfoldSlowWhileLearning", "InfoldWorkerAbsent", "InfoldRedisDown", "InfoldDown",
}  # fmt: skip
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ, reason="promtool is not installed (Debian: prometheus)"
)


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_alert_fires_on_its_case_and_no_other_does() -> None:
    _promtool("test", "rules", CASES)


@needs_promtool
def test_the_configuration_of_prometheus_and_its_rules_are_valid() -> None:
    _promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")  # the key that it names is compose's secret
    _promtool("check", "rules", PROMETHEUS / "alerts.yml")


def test_everything_that_must_be_alerted_on_is_and_has_a_case() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    samples = [sample["labels"] for case in cases for test in case["promql_expr_test"] for sample in test["exp_samples"]]
    fired = {re.findall(r'alertname="(\w+)"', labels)[0] for labels in samples}
    assert set(ALERTS) == fired >= WANTED


def test_thresholds_are_the_servers_defaults() -> None:
    assert ALERTS["InfoldDriftBudget"]["expr"].endswith(f"> 0.8 * {GuardConfig().kl_total}")
    assert ALERTS["InfoldCanariesFallen"]["expr"].endswith(f"< {Settings().canary_floor}")


def test_every_alert_says_how_bad_it_is_what_happened_and_where_to_read_on() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert ROOT / page == ROOT / "docs" / "runbook.md"
        assert anchor == name.lower()


def test_the_runbook_has_a_section_for_every_alert_and_each_says_what_to_look_at_and_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    for name, text in sections.items():
        assert all(re.search(rf"\*\*{word}", text, re.IGNORECASE) for word in ("Means", "Look", "do")), name


def _commands(text: str) -> list[list[str]]:
    """Command lines of `infold` in code spans and blocks."""
    lines = [*re.findall(r"`(infold [^`\n]+)`", text), *re.findall(r"^\$ (infold .+)$", text, re.MULTILINE)]
    return [shlex.split(line)[1:] for line in lines]


def _check(words: list[str]) -> None:
    """Fails unless there is such a command, with these options and room for these arguments."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, f"{command.name} needs the name of a command"
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    options = {name: p for p in command.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)}
    arguments = sum(p.param_type_name == "argument" for p in command.params)
    while words:
        word, *words = words
        if word.startswith("-") and word != "-":
            assert word in options, f"{command.name} has no option {word}"
            words = words if options[word].is_flag else words[1:]
        else:
            arguments -= 1
    assert arguments >= 0, f"{command.name} takes fewer arguments"


@pytest.mark.parametrize("words", _commands(RUNBOOK), ids=" ".join)
def test_every_command_of_the_runbook_exists(words: list[str]) -> None:
    _check(words)


def test_every_command_that_a_panel_names_exists() -> None:
    texts = [path.read_text() for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")]
    found = [words for text in texts for words in _commands(text)]
    assert len(found) > 5
    for words in found:
        _check(words)


@pytest.mark.parametrize("wrong", [["unlearn"], ["versions", "--colour"], ["rollback", "v1", "v2"], ["canaries"]], ids=" ".join)
def test_a_command_that_does_not_exist_is_noticed(wrong: list[str]) -> None:
    with pytest.raises(AssertionError):
        _check(wrong)


def test_every_route_that_the_runbook_names_is_served() -> None:
    modules = [importlib.import_module(f"service.routes.{module.name}") for module in pkgutil.iter_modules(service.routes.__path__)]
    routes = [route for module in modules if hasattr(module, "router") for route in module.router.routes]
    served = {(method, re.sub(r"{\w+}", "{}", route.path)) for route in routes for method in route.methods}
    named = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in re.findall(r"\b(GET|POST|DELETE) (/[\w{}/-]+)", RUNBOOK)}
    named |= {("GET", path) for path in re.findall(r"curl -s localhost:8000(/[\w/-]+)", RUNBOOK)}
    assert len(named) > 3
    assert named <= served


def test_every_metric_service_and_file_that_the_runbook_names_exists() -> None:
    shown = [sample.name for family in Metrics(["default"]).registry.collect() for sample in family.samples]
    shown += [family.name for family in Metrics().registry.collect()]
    for name in re.findall(r"grep (infold_\w+)", RUNBOOK):
        assert any(sample.startswith(name) for sample in shown), name
    for file, rest in re.findall(r"docker compose -f (\S+) (.+)$", RUNBOOK, re.MULTILINE):
        services = yaml.safe_load((ROOT / file).read_text())["services"]
        assert set(rest.split()) & set(services), rest
    for link in re.findall(r"\]\((\.\./[^)#]+)", RUNBOOK):
        assert (ROOT / "docs" / link).is_file(), link


def test_the_logs_that_the_runbook_quotes_are_written() -> None:
    code = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    quoted = re.findall(r"\(`([a-z][^`]+)`(?:, `([a-z][^`]+)`)?\)", RUNBOOK)
    lines = [line for pair in quoted for line in pair if line and " " in line and not line.startswith(("infold", "append"))]
    assert len(lines) >= 3
    for line in lines:
        assert json.dumps(line)[1:-1] in code, line
