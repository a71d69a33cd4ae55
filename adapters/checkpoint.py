"""Versions on disk: immutable, content-addressed directories.

    <root>/<digest>/manifest.json        parent digest, base model digest, documents, drift, SHA-256 of every other file
    <root>/<digest>/delta.safetensors    left:<layer> (d_out, r), right:<layer> (d_in, r), float32
    <root>/<digest>/memories.json        what rehearsal keeps of the documents' lessons
    <root>/.writing-<writer>-<random>/   a version being written

<digest> is the SHA-256 of manifest.json, so a name vouches for every byte below it and, through `parent`, for the
whole chain back to the base. A crash at any moment leaves either no directory of that name or a whole one: files are
written and fsynced under a temporary name, which is renamed last. Several machines may share the directory: each
writes under a name of its own, and `clear_unfinished` removes what a crash left of this writer's; nothing else ever
removes or changes a file here. So what a writer left that never comes back stays, and takes only room.

Covered: writing, reading, verifying, rebuilding the summed weights of a chain. Not covered: names and aliases (the
server's ledger)."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.delta import Delta, DeltaSum
from adapters.drift import Drift
from adapters.errors import CorruptCheckpoint, InvalidConfig
from adapters.memory import Memory

FORMAT = 1
_UNFINISHED = ".writing-"


@dataclass(frozen=True)
class Version:
    """One version as it is on disk."""

    digest: str
    parent: str | None
    """Digest of the version that the delta is added to; None: the base model."""
    base: str
    """Digest of the base model."""
    documents: tuple[str, ...]
    """Ids of the documents that this version learned and its parent had not."""
    drift: Drift | None
    created: float
    """Seconds since the epoch."""
    nbytes: int


class VersionStore:
    """The directory that holds all versions."""

    def __init__(self, root: Path, writer: str = "local") -> None:
        """writer: letters and digits; no two processes that write here have the same at the same time."""
        if not writer.isalnum():
            raise InvalidConfig(f"a writer's name must be letters and digits, not {writer!r}")
        self.root, self._unfinished = root, f"{_UNFINISHED}{writer}-"
        root.mkdir(parents=True, exist_ok=True)

    def clear_unfinished(self) -> int:
        """Remove what a crash left half-written of this writer's; call only while it does not write. Returns how many."""
        leftovers = list(self.root.glob(f"{self._unfinished}*"))
        for path in leftovers:
            shutil.rmtree(path)
        return len(leftovers)

    def write(
        self,
        delta: Delta,
        memories: Sequence[Memory],
        *,
        base: str,
        parent: str | None,
        documents: Sequence[str],
        drift: Drift | None,
        created: float,
    ) -> Version:
        """Write one version durably. Writing the same content again is a no-op that returns the same digest."""
        unfinished = self.root / f"{self._unfinished}{uuid.uuid4().hex}"
        unfinished.mkdir()
        tensors = {
            f"{side}:{n}": t.contiguous().cpu()
            for n, pair in delta.factors.items()
            for side, t in zip(("left", "right"), pair, strict=True)
        }
        save_file(tensors, unfinished / "delta.safetensors")
        (unfinished / "memories.json").write_text(json.dumps([asdict(m) for m in memories]))
        files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(unfinished.iterdir())}
        manifest = {
            "format": FORMAT,
            "parent": parent,
            "base": base,
            "documents": list(documents),
            "drift": None if drift is None else asdict(drift),
            "created": created,
            "files": files,
        }
        text = json.dumps(manifest, sort_keys=True, indent=1).encode()
        (unfinished / "manifest.json").write_bytes(text)
        digest = hashlib.sha256(text).hexdigest()
        for path in (*unfinished.iterdir(), unfinished):
            _fsync(path)
        if (self.root / digest).exists():
            shutil.rmtree(unfinished)
        else:
            unfinished.rename(self.root / digest)
            _fsync(self.root)
        return self.read(digest)

    def read(self, digest: str) -> Version:
        """Read and verify a version's manifest.

        Raises:
            CorruptCheckpoint: missing, torn or altered.
        """
        manifest, size = self._manifest(digest)
        drift = manifest["drift"]
        return Version(
            digest, manifest["parent"], manifest["base"], tuple(manifest["documents"]), None if drift is None else
            Drift(**drift), manifest["created"], size,
        )  # fmt: skip

    def load(self, digest: str, base: str) -> tuple[Delta, tuple[Memory, ...]]:
        """Read a version's delta and memories, verifying every byte.

        Raises:
            CorruptCheckpoint: missing, torn, altered, or made for another base model.
        """
        manifest, _ = self._manifest(digest)
        if manifest["base"] != base:
            raise CorruptCheckpoint(f"version {digest} was made for base model {manifest['base']}, not for {base}")
        directory = self.root / digest
        for name, expected in manifest["files"].items():
            if not (directory / name).is_file() or hashlib.sha256((directory / name).read_bytes()).hexdigest() != expected:
                raise CorruptCheckpoint(f"{name} of version {digest} is missing or not what was written")
        try:
            tensors = load_file(directory / "delta.safetensors")
        except SafetensorError as error:
            raise CorruptCheckpoint(f"cannot read the delta of version {digest}: {error}") from error
        memories = json.loads((directory / "memories.json").read_text())
        return _delta(tensors), tuple(Memory(**{k: tuple(v) for k, v in m.items()}) for m in memories)

    def chain(self, digest: str | None) -> list[str]:
        """Digests from the base model's first child to `digest`, in order.

        Raises:
            CorruptCheckpoint: a link is missing or torn.
        """
        found: list[str] = []
        while digest is not None:
            found.append(digest)
            digest = self.read(digest).parent
        return found[::-1]

    def rebuild(self, digest: str | None, base: str, weights: Mapping[str, Tensor]) -> tuple[DeltaSum, list[Memory]]:
        """The summed weights of a version and all memories of its chain. weights: the base model's target weights."""
        total = DeltaSum(weights)
        memories: list[Memory] = []
        for link in self.chain(digest):
            delta, lessons = self.load(link, base)
            total.add(delta)
            memories += lessons
        return total, memories

    def _manifest(self, digest: str) -> tuple[dict[str, Any], int]:
        """The verified manifest, and the size of the whole version in bytes."""
        directory = self.root / digest
        try:
            text = (directory / "manifest.json").read_bytes()
            size = sum(p.stat().st_size for p in directory.iterdir())
        except OSError as error:
            raise CorruptCheckpoint(f"version {digest} is not in {self.root}: {error}") from error
        if hashlib.sha256(text).hexdigest() != digest:
            raise CorruptCheckpoint(f"the manifest of version {digest} is not what was written")
        manifest: dict[str, Any] = json.loads(text)
        if manifest["format"] != FORMAT:
            raise CorruptCheckpoint(f"version {digest} has format {manifest['format']}; this infold reads {FORMAT}")
        return manifest, size


def _delta(tensors: Mapping[str, Tensor]) -> Delta:
    names = sorted({key.partition(":")[2] for key in tensors})
    return Delta({name: (tensors[f"left:{name}"], tensors[f"right:{name}"]) for name in names})


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
