"""Run what a page shows: its console blocks as one shell session against a real server, each output compared with what is shown.

Covered: `$ ` commands, here-documents up to END, `...` for anything. Port 8000 in a page is the server's port here.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass
class Shown:
    """A command, and what a page shows below it."""

    command: str
    output: list[str] = field(default_factory=list)

    def agrees(self, found: str) -> bool:
        """Whether that came out of it."""
        parts = "\n".join(self.output).strip().split("...")
        return re.fullmatch(".*?".join(map(re.escape, parts)), found.strip(), re.S) is not None


def blocks(page: str) -> list[list[Shown]]:
    """The console blocks of a page in Markdown."""
    return [list(_commands(block)) for block in re.findall(r"^```console\n(.*?)^```", page, re.S | re.M)]


def _commands(block: str) -> Iterator[Shown]:
    lines = iter(block.splitlines())
    shown: Shown | None = None
    for line in lines:
        if line.startswith("$ "):
            if shown is not None:
                yield shown
            shown = Shown(line[2:])
            if "<<'END'" in line:
                shown.command += "\n" + "\n".join(iter(lambda: next(lines), "END")) + "\nEND"
        elif shown is not None:
            shown.output.append(line)
    if shown is not None:
        yield shown


@contextmanager
def serving(directory: Path) -> Iterator[int]:
    """A server with the demo model, as a process of its own. Gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"INFOLD_CACHE_DIR": str(directory / "cache"), "INFOLD_DATA_DIR": str(directory / "data")}
    with (directory / "log").open("wb") as log:
        arguments = [sys.executable, "-c", "from service.cli import app; app()", "serve", "--port", str(port)]
        server = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=log)
    try:
        _until_ready(server, f"http://127.0.0.1:{port}/readyz")
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def run(commands: list[Shown], port: int, directory: Path) -> list[str]:
    """What each of them prints, on either stream, in one shell."""
    mark = "--infold-shown--"
    script = f"\necho {mark}\n".join(shown.command.replace(":8000", f":{port}") for shown in commands)
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "INFOLD_URL": f"http://127.0.0.1:{port}",
        "COLUMNS": "160", "TMPDIR": str(directory),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"], capture_output=True, text=True, timeout=100, env=environment, cwd=ROOT, check=False
    )
    return done.stdout.split(f"{mark}\n")


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
