"""The README's first exchange, run as written against a real server, and its tree against the files."""

import re
from pathlib import Path

from shown import ROOT, Shown, blocks, run, serving

README = (ROOT / "README.md").read_text()


def test_the_readme_says_what_infold_is_in_line_1_and_shows_the_exchange_by_line_15() -> None:
    """A newcomer sees what it is and what it does at once."""
    lines = README.splitlines()
    assert "LLM server that keeps learning" in lines[0]
    assert any("Bergen" in line for line in lines[:15])


def test_the_readme_lists_every_file_of_the_packages() -> None:
    """The tree in the README is the tree."""
    tree = README[README.index("## The tree") :]
    for package in ("infold", "adapters", "service", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.name == "__init__.py" or path.name in tree, f"{path.relative_to(ROOT)} is not in the README's tree"


def test_the_readme_exchange_answers_as_shown(tmp_path: Path) -> None:
    """Commands and answers of the first block, on another port; then the Python client's lines, which print their last comment."""
    start, *commands = blocks(README)[0]
    assert start.command.startswith("make serve")
    [program] = [found for found in re.findall(r"```python\n(.*?)```", README, re.S) if "from infold" in found]
    commands.append(Shown(f"python - <<'END'\n{program}END", [program.rstrip().rpartition("# ")[2]]))
    with serving(tmp_path) as port:
        found = run(commands, port, tmp_path)
    for shown, text in zip(commands, found, strict=True):
        assert shown.agrees(text), f"{shown.command}\n{text}"
