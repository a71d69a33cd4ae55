"""The disk: room for versions, the right to write them, and who else does."""

import os
import shutil
from pathlib import Path

from service.checks.finding import Check, Finding
from service.errors import DataDirectoryBusy
from service.settings import Settings
from service.valkey import DataLock

LEAST_FREE_BYTES = 100_000_000
"""Below it a server would hardly write its first versions."""
FEW_FREE_BYTES = 1_000_000_000


def room(settings: Settings) -> list[Finding]:
    """Bytes and files that can be written where versions go."""
    where = _existing(settings.data_dir)
    free, files = shutil.disk_usage(where).free, os.statvfs(where)
    shown = f"{free / 1e9:.1f} GB free for {settings.data_dir}"
    if files.f_files and not files.f_favail:
        return [
            Finding(
                "fix", "disk", f"no more files can be made for {settings.data_dir}", "remove files, or choose another --data-dir"
            )
        ]
    if free < LEAST_FREE_BYTES:
        return [Finding("fix", "disk", shown, "make room, or choose another --data-dir")]
    if free < FEW_FREE_BYTES:
        return [
            Finding("warn", "disk", shown, "make room (infold collect --keep N drops old versions), or choose another --data-dir")
        ]
    return [Finding("ok", "disk", shown)]


def data_directory(settings: Settings) -> list[Finding]:
    """Whether it can be written, and nobody else uses it. It is not made if it is not there."""
    directory = settings.data_dir
    if directory.is_dir():
        try:
            DataLock(directory).release()
        except DataDirectoryBusy:
            holder = f"another infold server uses {directory}"
            return [Finding("fix", "data directory", holder, "stop it, or choose another --data-dir")]
        except OSError as error:
            return [
                Finding("fix", "data directory", str(error), "give yourself the right to write there, or choose another --data-dir")
            ]
    elif finding := _unwritable(directory, "data directory", "--data-dir"):
        return [finding]
    return [Finding("ok", "data directory", f"{directory} is writable and not in use")]


def cache_directory(settings: Settings) -> list[Finding]:
    """Where what is measured of a model goes."""
    if finding := _unwritable(settings.cache_dir, "cache", "INFOLD_CACHE_DIR"):
        return [finding]
    return [Finding("ok", "cache", f"{settings.cache_dir} is writable")]


CHECKS: tuple[Check, ...] = (room, data_directory, cache_directory)


def _existing(directory: Path) -> Path:
    """The nearest directory above that is there."""
    directory = directory.absolute()
    while not directory.exists():
        directory = directory.parent
    return directory


def _unwritable(directory: Path, check: str, name: str) -> Finding | None:
    where = _existing(directory)
    if not where.is_dir():
        return Finding("fix", check, f"{directory} cannot be: {where} is not a directory", f"choose another with {name}")
    if not os.access(where, os.W_OK | os.X_OK):
        return Finding("fix", check, f"{where} cannot be written", f"give yourself the right to, or choose another with {name}")
    return None
