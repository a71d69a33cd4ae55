"""The running server behind the routes: model, engine, ledger, queue, worker, and the order in which they start and stop.

Covered: start-up, readiness, shutdown. Not covered: HTTP (`routes/`), the life of one job (`worker.py`).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence

import structlog
import torch
from redis.exceptions import RedisError
from torch import Tensor

from adapters.base_model import BaseModel
from adapters.delta import DeltaSum
from adapters.learner import Learner
from adapters.memory import Memory
from adapters.targets import find_targets
from adapters.versioned_linear import VersionTable
from adapters.views import ViewTemplate
from adapters.workspace import Workspace
from service.api_keys import ApiKeys
from service.arrivals import Arrivals
from service.audit import Audit
from service.connection import PATIENCE_SECONDS, connect
from service.dead_letters import DeadLetters
from service.engine import Engine, Limits
from service.errors import LearnsElsewhere, NotReady
from service.explain import Explainer
from service.learning import make_learner
from service.lease import Lease
from service.metrics import Metrics
from service.model import load_model, load_template, serve_fast
from service.residency import Residency
from service.settings import Settings
from service.state import State
from service.traces import Traces
from service.turns import Turns
from service.valkey import DataLock, EmbeddedValkey
from service.version_record import VersionRecord
from service.worker import Worker

log = structlog.get_logger()


class Runtime:
    """Everything that lives as long as the server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.namespaces)
        self.turns = Turns()
        self._valkey = None if settings.redis_url else EmbeddedValkey(settings.data_dir)
        self.traces = Traces(settings.traces)
        self.redis = connect(settings.redis_url or self._valkey.url)  # type: ignore[union-attr]
        self._locks, self._writer = [DataLock(settings.data_dir)], "nobody"
        if settings.learner == "inside":
            self._locks.append(DataLock(settings.data_dir, "worker"))
            self._writer = self._locks[-1].name
        self.state = state = State.open(self.redis, settings, self._writer)
        self.queue, self.ledger, self.documents, self.canaries = state.queue, state.ledger, state.documents, state.canaries
        self.store = state.store
        self.api_keys, self.audit = ApiKeys(self.redis, settings.admin_key), Audit(self.redis)
        self.dead_letters = DeadLetters(self.redis, self.queue, settings.max_queue)
        self.loading, self.scoring, self.explaining = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._model: tuple[BaseModel, Engine, Residency, Workspace] | None = None
        self._explainer: Explainer | None = None
        self._template: ViewTemplate | None = None
        self._learner: Learner | None = None
        self.worker: Worker | None = None
        self._serving = False
        """Whether it goes on answering if it cannot learn."""
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        """Called if there is nothing to serve: the model cannot be loaded or measured."""

    @property
    def base(self) -> BaseModel:
        """The base model. Raises NotReady while it is loaded."""
        return self._loaded()[0]

    @property
    def engine(self) -> Engine:
        """The engine. Raises NotReady while the model is loaded."""
        return self._loaded()[1]

    @property
    def residency(self) -> Residency:
        """Versions in memory. Raises NotReady while the model is loaded."""
        return self._loaded()[2]

    @property
    def explainer(self) -> Explainer:
        """Who finds the sources of an answer, one at a time: hold `explaining`. Raises NotReady while the model is loaded."""
        self._loaded()
        assert self._explainer is not None
        return self._explainer

    @property
    def learner(self) -> Learner:
        """The learner.

        Raises:
            NotReady: the model is loaded or measured.
            LearnsElsewhere: there is none in this process.
        """
        if self.learns_elsewhere:
            raise LearnsElsewhere("a worker in another process learns for this server, and only it weighs tokens")
        if self._learner is None:
            raise NotReady("the model's curvature is still being measured; try again soon", retry_after=5)
        return self._learner

    @property
    def template(self) -> ViewTemplate:
        """How the model is asked. Raises NotReady while the model is loaded."""
        self._loaded()
        assert self._template is not None
        return self._template

    @property
    def scorer_trained(self) -> bool | None:
        """Whether weights come from a trained scorer; None: not known yet."""
        return None if self._learner is None else self._learner.scorer is not None

    async def start(self) -> None:
        """Start the embedded Redis; the rest goes on in the background, and requests are answered with NotReady until then."""
        if self._valkey is not None:
            await asyncio.to_thread(self._valkey.start)
            self._tasks.append(asyncio.create_task(self._valkey.watch()))
        self._tasks.append(asyncio.create_task(self._bring_up()))

    async def stop(self) -> None:
        """Drain: end the running job and requests, then let go of everything."""
        deadline = time.monotonic() + self.settings.drain_seconds
        if self.worker is not None:
            await self.worker.stop(self.settings.drain_seconds)
        if self._model is not None:
            await asyncio.to_thread(self.engine.stop, max(0.0, deadline - time.monotonic()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.turns.interrupt()  # what has not ended by now is learned after the next start, and must not keep the process
        with contextlib.suppress(RedisError):
            await self.redis.aclose()
        if self._valkey is not None:
            await asyncio.to_thread(self._valkey.stop)
        await asyncio.to_thread(self.traces.close)
        for lock in self._locks:
            lock.release()

    def load_weights(self, digest: str) -> Mapping[str, Tensor]:
        """Target weights of a version, from its chain on disk."""
        return self.rebuild(digest)[0].weights()

    def rebuild(self, digest: str | None) -> tuple[DeltaSum, list[Memory]]:
        """Summed weights and all memories of a version, from its chain on disk. Raises NotReady while the model is loaded."""
        base, _, _, workspace = self._loaded()
        return self.store.rebuild(digest, base.digest, workspace.base_weights)

    async def roll_back(self, namespace: str, to: str, expected: str | None, reason: str) -> VersionRecord:
        """Answer from version `to`, if `expected` (None: whatever) answers now.

        Raises:
            UnknownNamespace, UnknownVersion, AliasMoved
        """
        started = time.perf_counter()
        digest = self.ledger.resolve(namespace, to).digest
        key = await asyncio.to_thread(self.residency.acquire, digest)  # first: what cannot be loaded must not answer
        try:
            record = await self.ledger.move_alias(namespace, to, expected)
            self.residency.pin(namespace, digest)
        finally:
            self.residency.release(key)
        self.metrics.show_version(namespace, record.name, record.measured)
        self.metrics.rollbacks.labels(namespace, reason).inc()
        self.metrics.operation.labels("rollback").observe(time.perf_counter() - started)
        return record

    async def left_behind(self, namespace: str, ids: Sequence[str]) -> set[str]:
        """Those of these documents that were read on a version which what is learned on now was not made of: a rollback left it."""
        head = self.ledger.shadow(namespace)
        below = self.ledger.below(namespace, head)
        named = {i: name for i, name in (await self.documents.versions(namespace, ids)).items() if name not in below}
        if not named:
            return set()
        links = set(await asyncio.to_thread(self.store.lineage, head.digest, self.base.digest))
        beside = {name for digest, name in self.ledger.names(namespace).items() if digest not in links}
        return {document_id for document_id, name in named.items() if name in beside}

    @property
    def learns_elsewhere(self) -> bool:
        """Whether a worker in another process learns."""
        return self.settings.learner == "elsewhere"

    async def _bring_up(self) -> None:
        """Model, engine, live versions: ready. Then curvature and scorer: learning."""
        try:
            await self._reach_redis()
            started = time.perf_counter()
            await asyncio.to_thread(self._load_model)
            for namespace in self.settings.namespaces:
                record = self.ledger.resolve(namespace)
                await asyncio.to_thread(self.residency.pin, namespace, record.digest)
                self.metrics.show_version(namespace, record.name, record.measured)
            self.engine.start()
            log.info("ready", model=self.base.source, digest=self.base.digest, seconds=round(time.perf_counter() - started, 2))
            if self.learns_elsewhere:
                self._serving = True
                await self._arrivals().run()
            self._learner = await asyncio.to_thread(self._make_learner)
            settings, metrics = self.settings, self.metrics
            lease = Lease(self.redis, settings.namespaces, self._writer, settings.lease_seconds, metrics)
            self.worker = Worker(self.state, lease, self.residency, self._learner, self.turns, metrics, settings, self.traces)
            await self.worker.run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = error
            log.exception("the server cannot go on")
            if self._learner is None and not self._serving:
                self.on_failure()
            raise

    def _arrivals(self) -> Arrivals:
        base, _, residency, workspace = self._loaded()
        return Arrivals(
            self.ledger, self.queue, self.store, residency, self.metrics, base.digest, workspace.base_weights, self.traces
        )

    async def _reach_redis(self) -> None:
        """Wait for it: nothing can be answered before it is known which version answers."""
        while True:
            try:
                await self.queue.prepare(self.settings.namespaces)
                await self.ledger.load()
                self.metrics.redis_up.set(1)
                if not self.api_keys.on and await self.api_keys.all():
                    log.warning("there are API keys, and nobody is asked for one: set admin_key")
                return
            except RedisError as error:
                log.warning("redis does not answer, waiting", error=str(error))
                await asyncio.sleep(PATIENCE_SECONDS)

    def _load_model(self) -> None:
        base = load_model(self.settings)
        if base.device.type == "cpu" and len(os.sched_getaffinity(0)) > 1:
            self.turns.divide(torch.get_num_threads())
        elif base.device.type == "cuda":
            self.turns.separate(base.device)
        self._template = load_template(self.settings, base)
        targets = find_targets(base.model, self.settings.learn.targets)
        workspace, explaining = Workspace(base, targets, self.turns.pace), Workspace(base, targets)
        table = VersionTable(base.model, targets)
        serve_fast(self.settings, base)
        residency = Residency(table, self.settings.resident_versions, self.load_weights, self.metrics.resident_versions.set)
        engine = Engine(base, table, self.turns, self.metrics, _limits(self.settings))
        self._explainer = Explainer(explaining, residency, self.store, self.turns, self.settings.explain_cache_mb * 2**20)
        if not self.learns_elsewhere:
            self.store.clear_unfinished()
        self._model = (base, engine, residency, workspace)

    def _make_learner(self) -> Learner:
        workspace = self._loaded()[3]
        with self.turns.learning():
            return make_learner(self.settings, workspace)

    def _loaded(self) -> tuple[BaseModel, Engine, Residency, Workspace]:
        if self._model is None:
            raise NotReady("the model is still being loaded; try again soon", retry_after=2)
        return self._model


def _limits(settings: Settings) -> Limits:
    return Limits(settings.slots, settings.max_waiting, settings.prefix_cache_mb * 2**20, settings.read_seconds, settings.graphs)
