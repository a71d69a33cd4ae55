"""The unit for systemd agrees with the server, and systemd's own tools find nothing to complain about."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from test_deploy import ROOT, _is_setting

from service.cli import app
from service.settings import Settings

UNIT = ROOT / "deploy" / "systemd" / "infold.service"
OTHERS = {"PYTHONUNBUFFERED", "HF_HOME", "HOME"}
"""Variables that other programs read."""
with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _unit() -> dict[str, list[str]]:
    """Values of each key."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_what_it_starts_is_a_command_with_flags_that_there_are() -> None:
    [start] = _unit()["ExecStart"]
    program, command, *words = start.split()
    assert Path(program).name == "infold"
    known = {flag for parameter in typer.main.get_command(app).commands[command].params for flag in parameter.opts}  # type: ignore[attr-defined]
    flags = {word for word in words if word.startswith("--")}
    assert flags
    assert flags <= known


def test_every_variable_is_a_setting_or_anothers() -> None:
    named = {pair.partition("=")[0] for line in _unit()["Environment"] for pair in line.split()}
    assert {name for name in named - OTHERS if not _is_setting(name)} == set()


def test_systemd_waits_longer_than_the_server_drains() -> None:
    """Running requests drain first, then the running job."""
    [stop] = _unit()["TimeoutStopSec"]
    assert int(stop) > 2 * Settings.model_fields["drain_seconds"].default


def test_it_writes_only_what_systemd_made_for_it() -> None:
    unit = _unit()
    assert unit["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in unit
    assert "--data-dir ${STATE_DIRECTORY}" in unit["ExecStart"][0]
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == ["yes"]


@with_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    program = tmp_path / "infold"
    program.touch(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/infold/bin/infold", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@with_systemd
def test_little_is_left_of_what_it_could_do(tmp_path: Path) -> None:
    """At most 2.0 of 10 by systemd's own scale."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)]
    environment = os.environ | {"SYSTEMD_COLORS": "0", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout[-600:]
