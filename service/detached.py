"""`infold worker`: learning as a process of its own, on a device of its own.

It meets the server only through Redis and the version store: both use the same data directory, or the same Redis and a shared
directory. It may be killed at any moment: see `keys.py`.

A second worker on the same data directory waits for the first to end; one on another directory, or another machine, with the same
Redis and a shared version store waits for its lease (`lease.py`), with the model in memory already.

Covered: start-up, waiting, following rollbacks, metrics, draining. Not covered: the life of one job (`worker.py`).
"""

import asyncio
import contextlib
import signal

import structlog
from prometheus_client import start_http_server
from redis.exceptions import RedisError

from adapters.learner import Learner
from adapters.targets import find_targets
from adapters.workspace import Workspace
from service.connection import PATIENCE_SECONDS, connect
from service.errors import DataDirectoryBusy
from service.learning import make_learner
from service.lease import Lease
from service.ledger import Ledger
from service.metrics import Metrics
from service.model import load_model
from service.settings import Settings
from service.state import State
from service.traces import Traces
from service.turns import Turns
from service.valkey import DataLock, EmbeddedValkey
from service.version_record import VersionRecord
from service.worker import Worker

log = structlog.get_logger()


class DetachedWorker:
    """Learner, worker, and what they need of Redis."""

    def __init__(self, settings: Settings) -> None:
        """Raises InvalidSettings: the URL of Redis is none, or traces are wanted without their extra."""
        self.settings, self.metrics = settings, Metrics(settings.namespaces)
        self._redis = connect(settings.redis_url or EmbeddedValkey(settings.data_dir).url)
        self._traces = Traces(settings.traces, "infold-worker")
        self._worker: Worker | None = None
        self.turns = Turns()

    async def run(self) -> None:
        """Learn until `stop`; waits for another worker to leave the data directory, and for a server to start Redis.

        Raises:
            ModelNotLoadable: there is no such model.
        """
        lock = await self._lock()
        try:
            await self._learn(lock.name)
        finally:
            with contextlib.suppress(RedisError):
                await self._redis.aclose()
            self._traces.close()
            lock.release()

    async def stop(self) -> None:
        """Claim nothing more; the running job may end."""
        if self._worker is not None:
            await self._worker.stop(self.settings.drain_seconds)

    async def _lock(self) -> DataLock:
        waits = False
        while True:
            try:
                return DataLock(self.settings.data_dir, "worker")
            except DataDirectoryBusy:
                if not waits:
                    log.info("another worker uses the data directory, waiting for it to end", data_dir=str(self.settings.data_dir))
                waits = True
                await asyncio.sleep(PATIENCE_SECONDS)

    async def _learn(self, name: str) -> None:
        """Learn under this name."""
        settings, metrics = self.settings, self.metrics
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port, settings.host, metrics.registry)
        state = State.open(self._redis, settings, name)
        state.store.clear_unfinished()
        base = await asyncio.to_thread(load_model, settings)
        workspace = Workspace(base, find_targets(base.model, settings.learn.targets), self.turns.pace)
        learner = await asyncio.to_thread(self._make_learner, workspace)
        await self._reach_redis(state)
        lease = Lease(self._redis, settings.namespaces, name, settings.lease_seconds, metrics)
        self._worker = Worker(state, lease, None, learner, self.turns, metrics, settings, self._traces)
        following = asyncio.create_task(self._follow(state.ledger))
        try:
            log.info("waiting for documents", namespaces=settings.namespaces)
            await self._worker.run()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _make_learner(self, workspace: Workspace) -> Learner:
        with self.turns.learning():
            return make_learner(self.settings, workspace)

    async def _reach_redis(self, state: State) -> None:
        while True:
            try:
                await state.queue.prepare(self.settings.namespaces)
                await state.ledger.load()
                break
            except RedisError as error:
                self.metrics.redis_up.set(0)
                log.warning("redis does not answer, waiting for a server with this data directory", error=str(error))
                await asyncio.sleep(PATIENCE_SECONDS)
        self.metrics.redis_up.set(1)
        for namespace in self.settings.namespaces:
            record = state.ledger.resolve(namespace)
            self.metrics.show_version(namespace, record.name, record.measured)

    async def _follow(self, ledger: Ledger) -> None:
        """Hear of rollbacks, so that the next document is learned on top of what is served."""

        async def arrive(namespace: str, record: VersionRecord) -> bool:
            """There is no engine here that must have it first."""
            self.metrics.show_version(namespace, record.name, record.measured)
            return True

        while True:
            try:
                await ledger.follow(arrive)
            except RedisError:  # the worker says so
                await asyncio.sleep(PATIENCE_SECONDS)


async def work_until_told(settings: Settings) -> None:
    """Run a worker; the first SIGTERM or SIGINT lets its job end. Raises as `DetachedWorker`."""
    worker, loop = DetachedWorker(settings), asyncio.get_running_loop()
    running = asyncio.create_task(worker.run())

    async def end() -> None:
        await worker.stop()
        running.cancel()
        worker.turns.interrupt()  # what has not ended by now is learned after the next start, and must not keep the process

    ending: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: ending.append(loop.create_task(end())))
    with contextlib.suppress(asyncio.CancelledError):
        await running
