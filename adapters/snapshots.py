"""Snapshots: what the deltas of a version's chain add up to, kept so that a start need not add them up again.

    <root>/<digest>/manifest.json          the chain up to the version <digest>, its base model, SHA-256 of every file and of itself
    <root>/<digest>/totals.safetensors     layer -> summed change (d_out, d_in), float64, on the grid: exact
    <root>/<digest>/memories.safetensors   all memories of the chain, as flat arrays (read five times as fast as JSON)
    <root>/<digest>/moments.safetensors    what the metric has counted of them (`metric.py`), if anything

All of it follows from the versions themselves. So one that is missing, torn, altered or of another base model is as good as none:
reading it gives None, and whoever asked goes further back. A crash while one is written or removed costs only time.

Covered: writing, reading, verifying, removing. Not covered: when to write one (the server's worker), finding the nearest
(`checkpoint.py`).
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapters.answers import Counted, Moments
from adapters.durable import checksums, clear_unfinished, finish, save_tensors, sha256, writing
from adapters.memory import Memory

FORMAT = 1
_COLUMNS = {"ids": torch.int64, "weights": torch.float64, "required": torch.bool, "replaced": torch.int64}
_MOMENTS = "moments.safetensors"
_AT_ONCE = 2048
"""Memories turned into tensors in one call, during which no other thread runs."""


@dataclass(frozen=True)
class Snapshot:
    """A version, added up."""

    chain: tuple[str, ...]
    """Digests of the versions whose deltas it is made of, in order."""
    totals: Mapping[str, Tensor]
    """Layer -> summed change (d_out, d_in), float64, on CPU when read."""
    memories: Sequence[Memory]
    counted: Counted | None = None
    """Of the memories, by the metric; None when read: `Snapshots.counted` reads it."""


class Snapshots:
    """The directory that holds all snapshots, which is made with the first of them."""

    def __init__(self, root: Path, writer: str = "local") -> None:
        """writer: as of the versions."""
        self._root, self._writer = root, writer

    def digests(self) -> set[str]:
        """The versions that seem to have one."""
        return {path.name for path in self._root.iterdir() if not path.name.startswith(".")} if self._root.is_dir() else set()

    def write(self, digest: str, base: str, snapshot: Snapshot) -> None:
        """Write the snapshot of version `digest` durably, in place of the one that is there. base: digest of the base model."""
        with writing(self._root, self._writer) as unfinished:
            totals = {name: total.contiguous().cpu() for name, total in snapshot.totals.items()}
            save_tensors(totals, unfinished / "totals.safetensors")
            save_tensors(_flat(snapshot.memories), unfinished / "memories.safetensors")
            if snapshot.counted is not None:
                save_tensors(_sides(snapshot.counted), unfinished / _MOMENTS)
            manifest = {
                "format": FORMAT,
                "digest": digest,
                "base": base,
                "chain": list(snapshot.chain),
                "files": checksums(unfinished),
            }
            (unfinished / "manifest.json").write_text(json.dumps(manifest | {"sha256": _seal(manifest)}))
            finish(unfinished, digest)

    def chain(self, digest: str, base: str) -> tuple[str, ...] | None:
        """The chain of a snapshot, without the rest of it; None: there is no such snapshot."""
        manifest = self._manifest(digest, base)
        return None if manifest is None else tuple(manifest["chain"])

    def read(self, digest: str, base: str) -> Snapshot | None:
        """A snapshot, every byte of it verified; None: there is no such snapshot."""
        manifest, directory = self._manifest(digest, base), self._root / digest
        if manifest is None:
            return None
        totals, memories = (_verified(directory / name, manifest) for name in ("totals.safetensors", "memories.safetensors"))
        if totals is None or memories is None:
            return None
        return Snapshot(tuple(manifest["chain"]), totals, _memories(memories))

    def counted(self, digest: str, base: str) -> Counted | None:
        """What the metric had counted of a snapshot's memories; None: nothing, or there is no such snapshot."""
        manifest = self._manifest(digest, base)
        found = None if manifest is None else _verified(self._root / digest / _MOMENTS, manifest)
        if found is None:
            return None
        lessons = int(found.pop("lessons"))
        inputs, outputs = ({n[2:]: t for n, t in found.items() if n.startswith(side)} for side in ("A:", "B:"))
        return Counted(lessons, Moments(inputs, outputs))

    def remove(self, digests: Iterable[str]) -> None:
        """Remove the snapshots of these versions."""
        for digest in digests:
            shutil.rmtree(self._root / digest, ignore_errors=True)

    def clear_unfinished(self) -> int:
        """Remove what a crash left half-written of this writer's; call only while it does not write. Returns how many."""
        return clear_unfinished(self._root, self._writer)

    def _manifest(self, digest: str, base: str) -> dict[str, Any] | None:
        try:
            manifest: dict[str, Any] = json.loads((self._root / digest / "manifest.json").read_bytes())
            seal = manifest.pop("sha256")
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        usable = seal == _seal(manifest) and (manifest["format"], manifest["digest"], manifest["base"]) == (FORMAT, digest, base)
        return manifest if usable else None


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _verified(path: Path, manifest: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a file, if they are what the manifest says."""
    try:
        if sha256(path) != manifest["files"].get(path.name):
            return None
        return dict(load_file(path))
    except (OSError, SafetensorError):
        return None


def _sides(counted: Counted) -> dict[str, Tensor]:
    sides = (("A", counted.moments.inputs), ("B", counted.moments.outputs))
    moments = {f"{side}:{name}": moment.contiguous().cpu() for side, found in sides for name, moment in found.items()}
    return {"lessons": torch.tensor(counted.lessons), **moments}


def _flat(memories: Sequence[Memory]) -> dict[str, Tensor]:
    """Each field of all memories end to end, and how long each is."""
    out = {}
    for name, dtype in _COLUMNS.items():
        rows = iter(memories)
        values, lengths = [torch.empty(0, dtype=dtype)], [torch.empty(0, dtype=torch.int64)]
        while some := [getattr(memory, name) for memory in islice(rows, _AT_ONCE)]:
            values.append(torch.tensor(list(chain.from_iterable(some)), dtype=dtype))
            lengths.append(torch.tensor([len(row) for row in some]))
        out[name], out[f"{name}.lengths"] = torch.cat(values), torch.cat(lengths)
    return out


def _memories(flat: Mapping[str, Tensor]) -> list[Memory]:
    """What `_flat` was made of."""
    columns = []
    for name in _COLUMNS:
        values = iter(flat[name].tolist())
        columns.append([tuple(islice(values, length)) for length in flat[f"{name}.lengths"].tolist()])
    return [Memory(*fields) for fields in zip(*columns, strict=True)]
