"""Versions on disk: immutable, content-addressed directories.

    <root>/<digest>/manifest.json        parent digest or members, base model digest, namespace, documents, drift, SHA-256 of every
                                         other file
    <root>/<digest>/delta.safetensors    left:<layer> (d_out, r), right:<layer> (d_in, r), float32
    <root>/<digest>/memories.json        what rehearsal keeps of the documents' lessons
    <root>/snapshots/<digest>/           what the chain of a version adds up to (`snapshots.py`)
    <root>/.writing-<writer>-<random>/   a version being written

<digest> is the SHA-256 of manifest.json, so a name vouches for every byte below it and, through `parent`, for the
whole chain back to the base. A crash at any moment leaves either no directory of that name or a whole one: files are
written and fsynced under a temporary name, which is renamed last. Several machines may share the directory: each
writes under a name of its own, and `clear_unfinished` removes what a crash left of this writer's; nothing else ever
changes a file of a version. So what a writer left that never comes back stays, and takes only room.

A version is the sum of the deltas of its chain. That leads through `parent` back to the base model; or, where a document was taken
out of it, it is written down as `members`, which come before the version's own delta. A directory is removed with its document.

Covered: writing, reading, verifying, rebuilding the summed weights of a chain from its nearest snapshot. Not covered: names and
aliases (the server's ledger)."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapters.answers import Counted
from adapters.delta import Delta, DeltaSum
from adapters.drift import Drift
from adapters.durable import checksums, clear_unfinished, discard, finish, save_tensors, writing
from adapters.errors import CorruptCheckpoint, InvalidConfig
from adapters.memory import Memory
from adapters.snapshots import Snapshot, Snapshots

FORMATS = {False: 1, True: 2}
"""Of a manifest: with members or without."""
DIGEST = 64
"""Characters of a digest."""
KEPT = 2
"""Snapshots of one chain: the newest, and the one that serves should it be torn."""
T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """One version as it is on disk."""

    digest: str
    parent: str | None
    """Digest of the version that the delta is added to; None: the base model, or the members."""
    base: str
    """Digest of the base model."""
    documents: tuple[str, ...]
    """Ids of the documents that this version learned and its parent had not."""
    namespace: str
    members: tuple[str, ...] | None
    """Digests of the versions whose deltas come before this one's, in order; None: those of the parent's chain."""
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
        self.root, self._writer, self.snapshots = root, writer, Snapshots(root / "snapshots", writer)
        root.mkdir(parents=True, exist_ok=True)

    def clear_unfinished(self) -> int:
        """Remove what a crash left half-written of this writer's; call only while it does not write. Returns how many."""
        return clear_unfinished(self.root, self._writer) + self.snapshots.clear_unfinished()

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
        namespace: str = "",
        members: Sequence[str] | None = None,
    ) -> Version:
        """Write one version durably. Writing the same content again is a no-op that returns the same digest.

        members: what the delta is added to, instead of the parent's chain.
        """
        assert parent is None or members is None, "a version is added to its parent or to its members"
        with writing(self.root, self._writer) as unfinished:
            tensors = {
                f"{side}:{n}": t.contiguous().cpu()
                for n, pair in delta.factors.items()
                for side, t in zip(("left", "right"), pair, strict=True)
            }
            save_tensors(tensors, unfinished / "delta.safetensors")
            (unfinished / "memories.json").write_text(json.dumps([asdict(m) for m in memories]))
            manifest = {
                "format": FORMATS[members is not None],
                "parent": parent,
                "base": base,
                "namespace": namespace,
                "documents": list(documents),
                "drift": None if drift is None else asdict(drift),
                "created": created,
                "files": checksums(unfinished),
            }
            if members is not None:
                manifest["members"] = list(members)
            text = json.dumps(manifest, sort_keys=True, indent=1).encode()
            (unfinished / "manifest.json").write_bytes(text)
            digest = hashlib.sha256(text).hexdigest()
            if not (self.root / digest).exists():
                finish(unfinished, digest)
        return self.read(digest)

    def read(self, digest: str) -> Version:
        """Read and verify a version's manifest.

        Raises:
            CorruptCheckpoint: missing, torn or altered.
        """
        manifest, size = self._manifest(digest)
        drift, members = manifest["drift"], manifest.get("members")
        return Version(
            digest=digest,
            parent=manifest["parent"],
            base=manifest["base"],
            documents=tuple(manifest["documents"]),
            namespace=manifest.get("namespace", ""),
            members=None if members is None else tuple(members),
            drift=None if drift is None else Drift(**drift),
            created=manifest["created"],
            nbytes=size,
        )

    def versions(self) -> Iterator[Version]:
        """All that can be read, whether anybody needs them or not."""
        for path in self.root.iterdir():
            if len(path.name) == DIGEST and path.is_dir():
                with suppress(CorruptCheckpoint):
                    yield self.read(path.name)

    def remove(self, digests: Iterable[str]) -> None:
        """Remove versions that no other is made of, and their snapshots. A crash leaves whole ones, or none of a name."""
        for digest in digests:
            if (self.root / digest).is_dir():
                discard(self.root / digest, self._writer)
            self.snapshots.remove([digest])

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
        """Digests of the versions whose deltas make up `digest`, in order.

        Raises:
            CorruptCheckpoint: a link is missing or torn.
        """
        return self._walk(digest, ())[1]

    def lineage(self, digest: str | None, base: str) -> list[str]:
        """The whole of `chain`; what lies below the nearest snapshot is read from there."""
        below, links = self._from_snapshot(digest, base, self.snapshots.chain)
        return [*(below or ()), *links]

    def learned(self, links: Iterable[str]) -> list[str]:
        """Ids of the documents that these versions learned, in their order, each once."""
        return list(dict.fromkeys(document for link in links for document in self.read(link).documents))

    def behind(self, digest: str | None, base: str) -> int:
        """How many deltas `rebuild` has to add to the nearest snapshot, or to the base model if there is none."""
        return len(self._from_snapshot(digest, base, self.snapshots.chain)[1])

    def rebuild(self, digest: str | None, base: str, weights: Mapping[str, Tensor]) -> tuple[DeltaSum, list[Memory]]:
        """The summed weights of a version and all memories of its chain. weights: the base model's target weights."""
        return self._sum(base, weights, *self._from_snapshot(digest, base, self.snapshots.read))

    def add_up(self, links: Sequence[str], base: str, weights: Mapping[str, Tensor]) -> tuple[DeltaSum, list[Memory]]:
        """The same of these versions' own deltas, whatever they were added to; from a snapshot of how they begin, if any."""
        saved = self.snapshots.digests()
        for end in range(len(links), 0, -1):
            if links[end - 1] in saved and self.snapshots.chain(links[end - 1], base) == tuple(links[:end]):
                snapshot = self.snapshots.read(links[end - 1], base)
                if snapshot is not None:
                    return self._sum(base, weights, snapshot, links[end:])
        return self._sum(base, weights, None, links)

    def _sum(
        self, base: str, weights: Mapping[str, Tensor], snapshot: Snapshot | None, links: Iterable[str]
    ) -> tuple[DeltaSum, list[Memory]]:
        summed = {} if snapshot is None else {n: total.to(weights[n].device) for n, total in snapshot.totals.items()}
        total, memories = DeltaSum(weights, summed), [] if snapshot is None else list(snapshot.memories)
        for link in links:
            delta, lessons = self.load(link, base)
            total.add(delta)
            memories += lessons
        return total, memories

    def counted(self, digest: str | None, base: str) -> Counted | None:
        """What the metric had counted of the first memories that `rebuild` gives, when the nearest snapshot was written."""

        def usable(of: str, base: str) -> str | None:
            return None if self.snapshots.chain(of, base) is None else of

        nearest, _ = self._from_snapshot(digest, base, usable)  # even if it has none: what has one may be very far back
        return None if nearest is None else self.snapshots.counted(nearest, base)

    def write_snapshot(
        self,
        digest: str,
        base: str,
        total: DeltaSum,
        memories: Sequence[Memory],
        counted: Counted | None = None,
        needed: Iterable[str | None] = (),
    ) -> None:
        """Keep what `rebuild` and `counted` give of `digest`, and remove all but the newest snapshots of its chain.

        needed: further versions, the nearest snapshot of each of which must stay.
        """
        chain = self.lineage(digest, base)
        self.snapshots.write(digest, base, Snapshot(tuple(chain), total.totals, memories, counted))
        saved = self.snapshots.digests()
        nearest = {self._walk(other, saved)[0] for other in needed}
        older = [link for link in chain if link in saved][:-KEPT]
        self.snapshots.remove(link for link in older if link not in nearest)

    def _from_snapshot(self, digest: str | None, base: str, read: Callable[[str, str], T | None]) -> tuple[T | None, list[str]]:
        """What `read` gives of the nearest snapshot that it can read, or None; and the links above it."""
        usable = self.snapshots.digests()
        while True:
            stop, links = self._walk(digest, usable)
            found = None if stop is None else read(stop, base)
            if stop is None or found is not None:
                return found, links
            usable.remove(stop)

    def _walk(self, digest: str | None, until: Collection[str]) -> tuple[str | None, list[str]]:
        """The nearest ancestor that is one of `until`, if there is one, and the chain above it; else None, and the whole chain."""
        found: list[str] = []
        while digest is not None and digest not in until:
            found.append(digest)
            version = self.read(digest)
            if version.members is not None:
                return None, [*version.members, *found[::-1]]
            digest = version.parent
        return digest, found[::-1]

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
        if manifest["format"] not in FORMATS.values():
            raise CorruptCheckpoint(f"version {digest} has format {manifest['format']}; this infold reads {max(FORMATS.values())}")
        return manifest, size


def _delta(tensors: Mapping[str, Tensor]) -> Delta:
    names = sorted({key.partition(":")[2] for key in tensors})
    return Delta({name: (tensors[f"left:{name}"], tensors[f"right:{name}"]) for name in names})
