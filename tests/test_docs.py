"""What the documents show is what happens, and what they list is all there is."""

import dataclasses
import re
from pathlib import Path

import pytest
from shown import ROOT, blocks, run, serving

from adapters.config import LearnConfig
from service.settings import Settings

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "operations"])
def test_commands_do_what_a_page_shows(name: str, tmp_path: Path) -> None:
    commands = [shown for block in blocks((DOCS / f"{name}.md").read_text()) for shown in block]
    assert commands
    with serving(tmp_path) as port:
        found = run(commands, port, tmp_path)
    for shown, text in zip(commands, found, strict=True):
        assert shown.agrees(text), f"{shown.command}\n{text}"


def test_every_setting_has_its_line_in_what_is_said_of_tuning() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "tuning.md").read_text().splitlines() if line.startswith("| `")]
    named = set()
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        named |= {first, *(f"{first.rpartition('.')[0]}.{other}".lstrip(".") for other in others)}
    learning = {f"learn.{part.name}.{one.name}" for part in dataclasses.fields(LearnConfig) for one in _of(part.name)}
    assert named == (set(Settings.model_fields) - {"learn"}) | learning


def _of(part: str) -> tuple["dataclasses.Field[object]", ...]:
    return dataclasses.fields(getattr(LearnConfig(), part))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
