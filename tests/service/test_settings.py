"""Where settings come from, and what is refused."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InvalidSettings
from service.settings import Settings, load_settings


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "infold.toml", "port = 1\nslots = 2\nmax_queue = 3\n")
    monkeypatch.setenv("INFOLD_PORT", "10")
    monkeypatch.setenv("INFOLD_SLOTS", "20")
    settings = load_settings(file, port=100)
    assert (settings.port, settings.slots, settings.max_queue) == (100, 20, 3)


def test_flags_that_are_none_leave_the_rest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOLD_PORT", "10")
    assert load_settings(port=None).port == 10


def test_nested_settings_are_read_from_the_environment_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOLD_LEARN__VIEWS__COUNT", "0")
    file = write(tmp_path / "infold.toml", "[learn.fold]\niterations = 2\n")
    settings = load_settings(file)
    assert settings.learn.views.count == 0
    assert settings.learn.fold.iterations == 2


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOLD_CONFIG", str(write(tmp_path / "infold.toml", "slots = 7\n")))
    assert load_settings().slots == 7


def test_a_file_given_once_does_not_reach_the_next_load(tmp_path: Path) -> None:
    load_settings(write(tmp_path / "infold.toml", "slots = 7\n"))
    assert load_settings().slots == Settings().slots


@pytest.mark.parametrize(
    "text",
    [
        "prot = 1",
        "[learn]\nfolds = 1",
        "[learn.fold]\niteration = 1",
        "port = 'many'",
        "port = 99999",
        "namespaces = ['Not Valid']",
        "namespaces = []",
        "[learn.fold]\niterations = 0",
        "this is not TOML",
    ],
)
def test_a_file_with_anything_unknown_or_out_of_range_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(write(tmp_path / "infold.toml", text))
    assert "\n" not in str(caught.value)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="prot"):
        load_settings(prot=1)


@pytest.mark.parametrize(
    ("name", "hint"), [("INFOLD_PROT", "did you mean INFOLD_PORT?"), ("INFOLD_NOSUCH__THING", "no such setting")]
)
def test_an_unknown_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(InvalidSettings, match=re.escape(hint)):
        load_settings(None)


@pytest.mark.parametrize(
    "name", ["INFOLD_SERVICE_HOST", "INFOLD_PORT_8000_TCP", "INFOLD_URL", "INFOLD_API_KEY", "INFOLDER", "_INFOLD_COMPLETE"]
)
def test_what_others_put_into_the_environment_is_let_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    load_settings(None)


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_flag: bool) -> None:
    missing = tmp_path / "none.toml"
    if not by_flag:
        monkeypatch.setenv("INFOLD_CONFIG", str(missing))
    with pytest.raises(InvalidSettings, match=r"none\.toml"):
        load_settings(missing if by_flag else None)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
