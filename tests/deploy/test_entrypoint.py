"""The image's entry point, run for real as the image's user: in a root of its own that is read-only but for /data and /tmp.

What the image is made of is put together with bind mounts instead of layers: Python, its packages, and of the project only what
the Dockerfile copies. That needs root and a mount namespace.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from test_deploy import DEPLOY, ROOT, _image_environment

sys.path.insert(0, str(ROOT / "tests" / "service"))
from serving import Http, eventually, free_port

USER = 10001
SHARED = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")
CHROOT = """
set -eu
root=$1; shift
mount --bind "$root" "$root"
mkdir -p "$root/tmp"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
for source in %(read_only)s; do
  if [ -L "$source" ]; then cp -P "$source" "$root$source"; continue; fi
  mkdir -p "$root$source"
  mount --bind "$source" "$root$source"
  mount -o remount,bind,ro "$root$source"
done
for part in adapters infold service; do
  mkdir -p "$root/src/$part"
  mount --bind "%(checkout)s/$part" "$root/src/$part"
  mount -o remount,bind,ro "$root/src/$part"
done
mkdir -p "$root/data" "$root/proc" "$root/dev"
mount --bind "%(data)s" "$root/data"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec /usr/sbin/chroot "$root" setpriv --reuid %(user)s --regid %(user)s --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


def _may_mount() -> bool:
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        return False
    command = [unshare, "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _may_mount(), reason="needs root and a mount namespace")


class Contained:
    """The entry point in its root."""

    def __init__(self, tmp_path: Path) -> None:
        root, self.data, self.log = tmp_path / "root", tmp_path / "data", tmp_path / "log"
        root.mkdir()
        self.data.mkdir()
        os.chown(self.data, USER, USER)
        port = free_port()
        self.http = Http(f"http://127.0.0.1:{port}")
        prefixes = dict.fromkeys((*SHARED, sys.base_prefix, sys.prefix))
        script = CHROOT % {"read_only": " ".join(prefixes), "checkout": ROOT, "data": self.data, "user": USER}
        (tmp_path / "enter").write_text(script)
        environment = _image_environment() | {
            "PATH": f"{sys.prefix}/bin:/usr/bin", "PYTHONPATH": "/src", "HOME": "/data", "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "INFOLD_HOST": "127.0.0.1", "INFOLD_PORT": str(port),
        }  # fmt: skip
        command = ["unshare", "--mount", "--propagation", "private", "sh", str(tmp_path / "enter"), str(root), "infold", "serve"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = self.http.get("/readyz")
        except httpx2.TransportError:
            return False
        return answer.status_code == 200 and bool(answer.json()["learning"])


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contained]:
    started = Contained(tmp_path)
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, 9)
        started.process.wait()
    started.http.close()


def _ids(process: int) -> dict[str, list[str]]:
    lines = (line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: value.split() for name, value in lines}


def test_the_images_user_needs_nothing_but_a_data_directory_to_learn_answer_and_stop(contained: Contained) -> None:
    """Nothing else can be written; every file is the user's; SIGTERM ends it in the time that compose gives."""
    eventually(lambda: contained.ready, 100)
    status = _ids(contained.process.pid)
    assert set(status["Uid"]) == set(status["Gid"]) == {str(USER)}
    assert {int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == ["1"]
    job = contained.http.learned(text="Maria Okafor lives in Bergen.")
    assert job["status"] == "succeeded"
    assert contained.http.generate("Q: Where does Maria Okafor live? A:")["version"] == job["version"]
    files = list(contained.data.rglob("*"))
    assert any(file.suffix == ".safetensors" for file in files)
    assert {file.lstat().st_uid for file in files} == {USER}
    grace = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["infold"]["stop_grace_period"]
    contained.process.terminate()
    assert contained.process.wait(int(grace.removesuffix("s"))) == 0, contained.log.read_text()
