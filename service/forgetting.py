"""Take a document back: a version without it, no version with it, and its text in no store.

At once: its deltas are left out of the sum of what is served. Exactly: what was learned after it is learned anew on top of what
came before it, as if it had never been there. Either way every version that knew it is withdrawn, whether it answers or not.

Covered: the new version, what must go, removing it from disk and out of the store's own log. Not covered: queueing
(`queue.py`), what was measured (`adapters/unlearning.py`), the script that changes the ledger (`withdrawal.py`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from redis.exceptions import ResponseError

from adapters.checkpoint import Version
from adapters.delta import DeltaSum
from adapters.learner import Learner
from adapters.memory import Memory
from adapters.unlearning import Life, take_back, without
from service import keys
from service.documents import Mark
from service.head import Head
from service.job import Job
from service.provenance import ANSWERING, Provenance, trace
from service.state import State
from service.version_record import VersionRecord

_TEXTS = "texts"
"""Among what is doomed: what the store's own log still holds of texts."""
_SUM = "snapshot:"
"""Among what is doomed, before the digest of a version of which only the snapshot must go."""
_REWRITE_SECONDS = 0.05
_LONGEST_REWRITE_SECONDS = 600
Note = Callable[[str], None]
"""Called in a thread with the stage that is reached."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Cut:
    """Where a document stands in what is served, and in what is not."""

    before: tuple[str, ...]
    """Digests of the links that came before it."""
    own: tuple[str, ...]
    """Its own."""
    later: tuple[str, ...]
    """Those that came after the first of its own, and are not."""
    gone: frozenset[str]
    """Digests of all that learned it, in whatever version."""
    withdrawn: tuple[VersionRecord, ...]
    """Versions that contain it."""
    kept: tuple[VersionRecord, ...]
    """All others."""

    @property
    def parent(self) -> str | None:
        """Name of the version that the document was learned on top of."""
        return self.withdrawn[0].parent if self.withdrawn else None


@dataclass(frozen=True)
class Without:
    """What is served once a document is taken out of it."""

    version: Version | None
    """None: it was not in it."""
    head: Head
    """Whose record is still that of what was served before."""
    report: dict[str, Any]
    doomed: tuple[str, ...]
    """Digests of versions that nothing is made of any more, and snapshots of those withdrawn."""


class Forgetting:
    """Takes documents back on behalf of one worker."""

    def __init__(self, state: State, learner: Learner) -> None:
        self._redis, self._ledger, self._documents, self._store = state.redis, state.ledger, state.documents, state.store
        self._learner = learner

    @property
    def _base(self) -> str:
        return self._learner.workspace.base.digest

    def cut(self, namespace: str, document_id: str, live: VersionRecord) -> Cut:
        """Find it: in what is served, and in all other versions of the namespace."""
        lineage = self._store.lineage(live.digest, self._base)
        learned = {v.digest for v in self._store.versions() if document_id in v.documents and v.namespace in (namespace, "")}
        own = [link for link in lineage if link in learned]
        first = lineage.index(own[0]) if own else len(lineage)
        later = [link for link in lineage[first:] if link not in own]
        tainted: dict[str | None, bool] = {None: False}
        records = self._ledger.versions(namespace)
        withdrawn = [record for record in records if self._contains(record.digest, learned, tainted)]
        kept = [record for record in records if record not in withdrawn]
        mine = {r.digest for r in withdrawn if r.digest is not None}
        gone = {d for d in learned if d in mine or self._store.read(d).namespace == namespace}
        return Cut(tuple(lineage[:first]), tuple(own), tuple(later), frozenset(gone), tuple(withdrawn), tuple(kept))

    def _contains(self, digest: str | None, learned: set[str], tainted: dict[str | None, bool]) -> bool:
        """Whether a version is made of any of `learned`. tainted: what is known of others, and grows."""
        path = []
        while digest not in tainted:
            assert digest is not None
            version = self._store.read(digest)
            path.append(digest)
            if digest in learned or version.members is not None:
                tainted[digest] = digest in learned or not learned.isdisjoint(version.members or ())
                break
            digest = version.parent
        for link in path:
            tainted[link] = tainted[digest]
        return tainted[digest]

    async def texts(self, namespace: str, cut: Cut) -> dict[str, str | None]:
        """The text of each later link's document; None: it is another by now, or there are several."""
        documents = {link: self._store.read(link).documents for link in cut.later}
        named = {link: ids[0] for link, ids in documents.items() if len(ids) == 1}
        found = await self._documents.texts(namespace, list(named.values()))
        last = {document: link for link, document in named.items()}  # a text that was replaced since is not this link's
        return {
            link: text if last.get(document) == link else None for (link, document), text in zip(named.items(), found, strict=True)
        }

    def leave_out(
        self, job: Job, head: Head, cut: Cut, texts: dict[str, str | None], canaries: Sequence[Memory], note: Note
    ) -> Without:
        """The sum of everything else, and what it answers. texts: of documents that are to be learned anew; none: nothing is."""
        former, memories = self._store.add_up(cut.before, self._base, self._learner.workspace.base_weights)
        forgotten = [memory for link in cut.own for memory in self._store.load(link, self._base)[1]]
        started, links, total = time.perf_counter(), list(cut.before), former.copy()
        if job.exact and cut.own:
            links, total, kept = self._anew(job.namespace, links, total, memories, cut.later, texts, canaries, note)
        else:
            links += cut.later
            total, kept = head.total.copy(), without(head.memories, forgotten)
            for link in cut.own:
                total.remove(self._store.load(link, self._base)[0])
        life, mend = Life(former, head.total, total), bool(cut.own) and not job.exact
        delta, total, measured = take_back(self._learner, life, forgotten, kept, head.turn, mend)
        report = asdict(measured) | {
            "exact": job.exact,
            "learned_anew": sum(link not in cut.later for link in links[len(cut.before) :]),
            "versions_withdrawn": len(cut.withdrawn),
            "seconds": {"forget": time.perf_counter() - started},
        }
        version = None
        if cut.own:
            drift = self._learner.probe(total, kept, head.turn, canaries)
            report["drift"] = asdict(drift)
            version = self._store.write(
                delta, [], base=self._base, parent=None, members=[link for link in links if self._changes(link)],
                documents=[], drift=drift, created=time.time(), namespace=job.namespace,
            )  # fmt: skip
        removed = cut.gone | set(cut.later) - set(links)
        sums = (f"{_SUM}{record.digest}" for record in cut.withdrawn if record.digest not in removed)
        return Without(version, Head(head.record, total, kept, 0, head.refused), report, (*removed, *sums))

    def others(self, job: Job, cut: Cut, made: Without, marks: Sequence[Mark]) -> Provenance:
        """What becomes of other documents that name a version which is withdrawn."""
        answers = made.head.record.digest if made.version is None else made.version.digest
        kept = [(ANSWERING, answers), *((record.name, record.digest) for record in reversed(cut.kept))]
        named = [mark for mark in marks if mark.document_id != job.document_id]
        answered = self._store.learned(cut.later) if job.exact else ()  # those that were not learned anew were known already
        return trace(self._store, self._base, named, kept, frozenset(cut.later), frozenset(answered))

    def shadow(self, namespace: str, cut: Cut, live: VersionRecord) -> str | None:
        """The version that the shadow goes back to: the nearest that stays, if that is ahead of what is served."""
        records = {record.name: record for record in (*cut.withdrawn, *cut.kept)}
        gone = {record.name for record in cut.withdrawn}
        record: VersionRecord | None = self._ledger.shadow(namespace)
        while record is not None and record.name in gone and record.name != live.name:
            record = records.get(record.parent or "")
        return None if record is None or record.name == live.name else record.name

    def _changes(self, link: str) -> bool:
        """Whether a version is made of what this link adds: not of one that only took a document back."""
        return bool(self._store.read(link).documents or self._store.load(link, self._base)[0].factors)

    def _anew(
        self,
        namespace: str,
        links: list[str],
        total: DeltaSum,
        memories: list[Memory],
        later: Sequence[str],
        texts: dict[str, str | None],
        canaries: Sequence[Memory],
        note: Note,
    ) -> tuple[list[str], DeltaSum, list[Memory]]:
        """Learn again what came later. What has no text any more, or is not accepted now, stays as it was learned."""
        for number, link in enumerate(later, 1):
            note(f"learning anew {number} of {len(later)}")
            text, before = texts.get(link), self._store.read(link)
            if not before.documents:
                continue  # it mended what is learned anew now
            learned = None if text is None else self._learner.learn(text, total, memories, len(links), canaries)
            if learned is None or learned.report.rejection is not None:
                delta, lessons = self._store.load(link, self._base)
                total = total.copy()
                total.add(delta)
                links, memories = [*links, link], [*memories, *lessons]
            elif learned.delta.factors:
                version = self._store.write(
                    learned.delta, learned.memories, base=self._base, parent=links[-1] if links else None,
                    documents=before.documents, drift=learned.report.drift, created=time.time(), namespace=namespace,
                )  # fmt: skip
                links, total, memories = [*links, version.digest], learned.total, [*memories, *learned.memories]
        return links, total, memories

    async def sweep(self, namespace: str) -> None:
        """Remove what is doomed: from disk, and from the log of the store."""
        doomed = set(await self._redis.smembers(keys.doomed(namespace)))
        if not doomed:
            return
        await asyncio.to_thread(self._remove, doomed - {_TEXTS})
        if _TEXTS in doomed and not await self._rewrite_log():
            doomed.remove(_TEXTS)  # to be tried again with the next one, and after the next start
        if doomed:
            await self._redis.srem(keys.doomed(namespace), *doomed)

    def _remove(self, doomed: set[str]) -> None:
        self._store.snapshots.remove(one.removeprefix(_SUM) for one in doomed if one.startswith(_SUM))
        self._store.remove(one for one in doomed if not one.startswith(_SUM))

    async def _rewrite_log(self) -> bool:
        """An append-only file keeps what was removed until it is rewritten. Returns whether that is done, or not needed."""
        try:
            async with asyncio.timeout(_LONGEST_REWRITE_SECONDS):
                if not (await self._persistence()).get("aof_enabled"):
                    return True
                await self._written()  # one that began before would write down what is gone by now
                await self._redis.bgrewriteaof()
                if await self._written():
                    return True
            reason = "it failed"
        except (ResponseError, TimeoutError) as error:
            reason = str(error) or "it takes too long"
        log.warning("the store's log could not be rewritten: it may hold the text of what was forgotten", reason=reason)
        return False

    async def _written(self) -> bool:
        """Wait until nothing is being rewritten. Returns whether the last time went well."""
        while True:
            found = await self._persistence()
            if not found.get("aof_rewrite_in_progress") and not found.get("aof_rewrite_scheduled"):
                return bool(found.get("aof_last_bgrewrite_status") == "ok")
            await asyncio.sleep(_REWRITE_SECONDS)

    async def _persistence(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._redis.info("persistence")
        return found
