"""Directories that are there whole or not at all: written and fsynced under a temporary name, which is renamed last.

Covered: writing, removing what a crash left, checksums. Not covered: what is in them (`checkpoint.py`, `snapshots.py`).
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_UNFINISHED = ".writing-"


@contextmanager
def writing(root: Path, writer: str) -> Iterator[Path]:
    """A new directory in `root`, to be filled and given to `finish`; removed if it was not.

    writer: letters and digits, of this process alone.
    """
    unfinished = root / f"{_UNFINISHED}{writer}-{uuid.uuid4().hex}"
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError if it cannot be written, as every file does."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {error}") from error


def finish(unfinished: Path, name: str) -> None:
    """Give a directory its name, durably. What had that name before is kept aside until then, and removed."""
    for path in (*unfinished.iterdir(), unfinished):
        _fsync(path)
    target = unfinished.with_name(name)
    before = unfinished.with_name(f"{unfinished.name}-before") if target.exists() else None
    if before is not None:
        target.rename(before)
    unfinished.rename(target)
    _fsync(target.parent)
    if before is not None:
        shutil.rmtree(before)


def discard(directory: Path, writer: str) -> None:
    """Remove a directory: first it loses its name, so that a crash leaves a whole one or something unfinished."""
    unfinished = directory.with_name(f"{_UNFINISHED}{writer}-{uuid.uuid4().hex}")
    directory.rename(unfinished)
    _fsync(directory.parent)
    shutil.rmtree(unfinished)


def clear_unfinished(root: Path, writer: str) -> int:
    """Remove what a crash left half-written of one writer's; call only while it does not write. Returns how many."""
    leftovers = list(root.glob(f"{_UNFINISHED}{writer}-*"))
    for path in leftovers:
        shutil.rmtree(path)
    return len(leftovers)


def checksums(directory: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file."""
    return {path.name: sha256(path) for path in sorted(directory.iterdir())}


def sha256(path: Path) -> str:
    """Of a file's content. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
