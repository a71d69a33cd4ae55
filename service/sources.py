"""Files to learn: found by name, folder or pattern, each with the id that its document gets.

Covered: what is meant by a name, ids that stay. Not covered: what is in the files (`extract.py`).
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from service.extract import SUFFIXES

STANDARD_INPUT = "-"
_LONGEST_ID = 128


@dataclass(frozen=True)
class Source:
    """One document's worth of text, which may not be there."""

    name: str
    """As it is shown."""
    document_id: str | None
    """None: it is named after its text."""


def find(names: Sequence[str], root: Path) -> list[Source]:
    """What is meant, each once: files as they are; of folders and below all files of a known kind; patterns, `**` too.

    Hidden files and folders are left out of folders, and links that lead out of them. A name that means nothing is kept: reading it
    says so.
    """
    found: dict[str, Source] = {}
    for name in names:
        for path in _meant(name):
            found.setdefault(path if path == STANDARD_INPUT else str(Path(path).resolve()), Source(path, document_id(path, root)))
    return list(found.values())


def document_id(name: str, root: Path) -> str | None:
    """A document's id by the path of its file below `root`, else by its whole path; the same whatever is in the file."""
    if name == STANDARD_INPUT:
        return None
    path, root = Path(name).resolve(), root.resolve()
    shown = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    readable = re.sub(r"[^A-Za-z0-9._/-]", "_", shown).replace("/", ":").lstrip("._:-")
    if readable.replace(":", "/") == shown and len(readable) <= _LONGEST_ID:
        return readable
    digest = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"file-{digest}-{readable[-(_LONGEST_ID - 32) :]}"


def _meant(name: str) -> Iterator[str]:
    if name == STANDARD_INPUT or Path(name).is_file():
        yield name
    elif Path(name).is_dir():
        inside = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        within = [path for path in inside if path.resolve().is_relative_to(Path(name).resolve())]  # a link may lead anywhere
        visible = [path for path in within if not any(part.startswith(".") for part in path.relative_to(name).parts)]
        yield from map(str, visible or [Path(name)])
    else:
        matches = sorted(path for path in glob(name, recursive=True) if Path(path).is_file()) if has_magic(name) else []
        yield from matches or [name]
