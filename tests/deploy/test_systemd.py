"""The units for systemd agree with what they start, and systemd's own tools find nothing to complain about."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from test_deploy import ROOT, _is_setting

from service.cli import app
from service.settings import Settings

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
each = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
OTHERS = {"PYTHONUNBUFFERED", "HF_HOME", "HOME"}
"""Variables that other programs read."""
with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _keys(unit: Path) -> dict[str, list[str]]:
    """Values of each key."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@each
def test_what_it_starts_is_a_command_with_flags_that_there_are(unit: Path) -> None:
    [start] = _keys(unit)["ExecStart"]
    program, command, *words = start.split()
    assert Path(program).name == "infold"
    known = {flag for parameter in typer.main.get_command(app).commands[command].params for flag in parameter.opts}  # type: ignore[attr-defined]
    flags = {word for word in words if word.startswith("--")}
    assert flags
    assert flags <= known


@each
def test_every_variable_is_a_setting_or_anothers(unit: Path) -> None:
    named = {pair.partition("=")[0] for line in _keys(unit)["Environment"] for pair in line.split()}
    assert {name for name in named - OTHERS if not _is_setting(name)} == set()


@each
def test_systemd_waits_longer_than_it_drains(unit: Path) -> None:
    """Running requests drain first, then the running job."""
    [stop] = _keys(unit)["TimeoutStopSec"]
    assert int(stop) > 2 * Settings.model_fields["drain_seconds"].default


@each
def test_it_writes_only_what_systemd_made_for_it(unit: Path) -> None:
    keys = _keys(unit)
    assert keys["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in keys
    assert "--data-dir ${STATE_DIRECTORY}" in keys["ExecStart"][0]
    assert keys["DynamicUser"] == keys["NoNewPrivileges"] == ["yes"]


def test_the_worker_meets_the_server_in_what_they_share() -> None:
    """One user, one state, and the same walls around both."""
    server, worker = (_keys(ROOT / "deploy" / "systemd" / f"{name}.service") for name in ("infold", "infold-worker"))
    own = {"Description", "After", "Wants", "Requires", "ExecStart"}
    assert {name: values for name, values in worker.items() if name not in own} == {
        name: values for name, values in server.items() if name not in own
    }
    assert worker["User"] == worker["StateDirectory"] == ["infold"], "systemd gives each name a user of its own"
    assert worker["Requires"] == worker["After"] == ["infold.service"]
    assert " worker " in worker["ExecStart"][0]


@with_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    program = tmp_path / "infold"
    program.touch(0o755)
    written = [tmp_path / unit.name for unit in UNITS]
    for unit, path in zip(UNITS, written, strict=True):
        path.write_text(unit.read_text().replace("/opt/infold/bin/infold", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, written)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@with_systemd
@each
def test_little_is_left_of_what_it_could_do(unit: Path, tmp_path: Path) -> None:
    """At most 2.0 of 10 by systemd's own scale."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    environment = os.environ | {"SYSTEMD_COLORS": "0", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout[-600:]
