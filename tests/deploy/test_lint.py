"""What linters and published schemas say of the files that are deployed. No container engine needed."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_deploy import DEPLOY, ROOT

BIN = Path(sys.executable).parent
YAML_RULES = """
extends: default
rules:
  line-length: {max: 150}
  document-start: disable
  comments: {min-spaces-from-content: 1}
"""
with_schema = pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None and "CI" not in os.environ, reason="check-jsonschema is not installed"
)


def _run(*command: str | Path) -> str:
    """What it prints, if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr if done.returncode else ""


def _merged(below: Any, above: Any) -> Any:
    """As compose lays one file over another: mappings by key, the rest replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merged(below.get(key), value) for key, value in above.items()}
    return above


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert _run(BIN / "hadolint", ROOT / "Dockerfile") == ""


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian\nRUN cd /tmp && sudo true\n")
    assert "DL3004" in _run(BIN / "hadolint", wrong)


def test_yamllint_finds_nothing_in_yaml_that_is_no_template() -> None:
    files = [file for pattern in ("*.yaml", "*.yml") for file in DEPLOY.rglob(pattern) if "templates" not in file.parts]
    assert len(files) > 5
    assert _run(BIN / "yamllint", "--strict", "-d", YAML_RULES, *files) == ""


@with_schema
def test_the_compose_files_follow_the_compose_specification_each_and_one_over_the_other(tmp_path: Path) -> None:
    base, cuda = DEPLOY / "compose.yaml", DEPLOY / "compose.cuda.yaml"
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump(_merged(yaml.safe_load(base.read_text()), yaml.safe_load(cuda.read_text()))))
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert _run(*check, base, cuda, both) == ""
    both.write_text(both.read_text().replace("stop_grace_period", "stop_grace"))
    assert "stop_grace" in _run(*check, both)


def test_what_compose_puts_in_for_variables_is_there_or_asked_for() -> None:
    """`${NAME:?why}` or `${NAME:-value}`: nothing becomes empty without a word."""
    text = "\n".join(file.read_text() for file in DEPLOY.glob("compose*.yaml"))
    found = re.findall(r"\$\{[A-Z_]+(:\?[^}]+|:-[^}]*)?\}", text)
    assert found
    assert all(found)


def test_the_image_has_what_the_project_needs_and_can_send_traces() -> None:
    """The program that lists what the image installs, run as the Dockerfile has it."""
    [program] = re.findall(r"python -c '(import tomllib[^']*)'", (ROOT / "Dockerfile").read_text().replace("\\\n", ""))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["traces"]]
