"""The README's first exchange, run as written against a real server, and its tree against the files."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
    block = re.search(r"```console\n(.*?)```", README, re.S)
    assert block is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    [program] = [found for found in re.findall(r"```python\n(.*?)```", README, re.S) if "from infold" in found]
    program = program.replace(":8000", f":{port}")
    commands, expected = [], []
    for line in block[1].splitlines():
        if line.startswith("$ "):
            commands.append(line[2:].replace(":8000", f":{port}"))
        else:
            expected.append(line)
    assert commands[0].startswith("make serve")
    environment = os.environ | {"INFOLD_CACHE_DIR": str(tmp_path / "cache"), "INFOLD_DATA_DIR": str(tmp_path / "data")}
    with (tmp_path / "log").open("wb") as log:
        arguments = [sys.executable, "-c", "from service.cli import app; app()", "serve", "--port", str(port)]
        server = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=log)
    try:
        _until_ready(server, f"http://127.0.0.1:{port}/readyz")
        shown = subprocess.run(["bash", "-c", "\n".join(commands[1:])], capture_output=True, text=True, timeout=60, check=True)
        said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert [line for line in shown.stdout.splitlines() if line] == expected
    assert said.stdout.strip() == program.rstrip().rpartition("# ")[2]


def _until_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server was not ready within 60 s")
