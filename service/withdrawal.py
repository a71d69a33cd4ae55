"""Withdraw versions, and remove the text of a document that they know: one script. The keys are in `keys.py`.

Covered: the ledger's side of forgetting and of retention; documents that are tried again. Not covered: which versions
(`forgetting.py`, `retention.py`) and documents (`provenance.py`), files.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.checkpoint import Version
from service import keys
from service.connection import Client
from service.errors import AliasMoved
from service.job import Claim
from service.lease import FencedScript
from service.ledger import Ledger
from service.provenance import Provenance
from service.queue_scripts import QUEUE_AGAIN
from service.version_record import VersionRecord

_WITHDRAW = """
local _, versions, count, alias, shadow, job, document, documents, moves, doomed, waiting = unpack(KEYS)
local _, expected, record, report, namespace, id, names, digests, moved, again, lost, prefix, now, below = unpack(ARGV)
local status = redis.call('HMGET', job, 'status', 'version', 'job_id')
if status[1] ~= 'running' or status[2] then return {'done', status[2] or '', ''} end
local name = redis.call('GET', alias) or 'v0'
if name ~= expected then return {'moved', name, ''} end
local served = '-'
if record ~= '' then
  served = '1'
  name = 'v' .. redis.call('INCR', count)
  redis.call('HSET', versions, name, (string.gsub(record, '"name": ""', '"name": "' .. name .. '"', 1)))
  redis.call('SET', alias, name)
  redis.call('DEL', shadow)
end
for _, gone in ipairs(cjson.decode(names)) do
  redis.call('HDEL', versions, gone)
  if redis.call('GET', shadow) == gone then
    redis.call('DEL', shadow)
    if below ~= '' then redis.call('SET', shadow, below) end
  end
end
if id ~= '' then redis.call('SADD', doomed, 'texts') end
for other, home in pairs(cjson.decode(moved)) do
  local key = prefix .. other
  if redis.call('HEXISTS', key, 'version') == 1 then redis.call('HSET', key, 'version', home == '' and name or home) end
end
local function lose(other, retried)
  local key = prefix .. other
  local version, latest, forgetting = unpack(redis.call('HMGET', key, 'version', 'job', 'forgetting'))
  if not version then return end  -- it has another text by now, or is not there any more
  redis.call('HDEL', key, 'version', 'tokens', 'learned_at', 'nothing', 'rejected')
  local it = 'infold:job:' .. latest
  local ended = redis.call('HGET', it, 'status')
  if retried and not forgetting and (ended == 'succeeded' or ended == 'rejected') then
    redis.call('HDEL', it, 'version', 'report', 'traceparent')
    redis.call('HSET', it, 'accepted_at', now)
    queue_again(it, waiting, latest)
  else
    redis.call('HSET', key, 'lost', '1')
  end
end
for _, other in ipairs(cjson.decode(again)) do lose(other, true) end
for _, other in ipairs(cjson.decode(lost)) do lose(other, false) end
for _, digest in ipairs(cjson.decode(digests)) do redis.call('SADD', doomed, digest) end
local last, jobs, forgetting = unpack(redis.call('HMGET', document, 'job', 'jobs', 'forgetting'))
local taken = forgetting ~= status[3]  -- its name, by a text that came later
for old in string.gmatch(jobs or last or '', '%S+') do
  if not (taken and old == last) then redis.call('HDEL', 'infold:job:' .. old, 'report', 'error') end
end
if not taken then
  redis.call('DEL', document)
  redis.call('ZREM', documents, id)
end
redis.call('HSET', job, 'version', name, 'report', report)
return {'ok', name, redis.call('XADD', moves, 'MAXLEN', '~', 10000, '*', 'namespace', namespace, 'version', name,
  'served', served, 'withdrawn', names)}
"""


@dataclass(frozen=True)
class Changes:
    """What a withdrawal is to change."""

    live: VersionRecord
    """What answers now."""
    version: Version | None
    """What is to answer in its place; None: it stays."""
    parent: str | None
    """Name of the version that the document was learned on top of."""
    names: Sequence[str]
    """Of versions that are no more."""
    digests: Sequence[str]
    """What must be removed from disk after this."""
    others: Provenance
    """Of documents that named one of these versions."""
    shadow: str | None = None
    """Name of the version that is learned on in the shadow if its own goes; None: the one that answers."""


class Withdrawal:
    """Withdraws versions."""

    def __init__(self, redis: Client, ledger: Ledger) -> None:
        self._ledger, self._script = ledger, FencedScript(redis, QUEUE_AGAIN + _WITHDRAW)

    async def __call__(self, claim: Claim, wanted: Changes, report: dict[str, Any]) -> VersionRecord:
        """Withdraw, remove the text and the reports of the claimed job's document: all or nothing. It has a version from then on.

        Returns the record of the version that answers then. A second time changes nothing.

        Raises:
            AliasMoved: the alias does not point to `wanted.live` any more.
            Fenced: another worker writes the namespace.
        """
        job, namespace, version = claim.job, claim.job.namespace, wanted.version
        record = wanted.live
        if version is not None:
            drift = None if version.drift is None else asdict(version.drift)
            record = VersionRecord("", version.digest, wanted.parent, (), job.job_id, version.created, drift, version.nbytes)
        outcome, name, entry = await self._script(
            namespace, claim.token,
            [
                keys.versions(namespace), keys.version_count(namespace), keys.alias(namespace), keys.shadow(namespace),
                keys.job(job.job_id), keys.document(namespace, job.document_id), keys.documents(namespace), keys.MOVES,
                keys.doomed(namespace), keys.jobs(namespace),
            ],
            [
                wanted.live.name, "" if version is None else json.dumps(asdict(record)), json.dumps(report), namespace,
                job.document_id, json.dumps(wanted.names), json.dumps(wanted.digests), json.dumps(wanted.others.moved),
                json.dumps(wanted.others.again), json.dumps(wanted.others.lost), keys.document(namespace, ""), time.time(),
                wanted.shadow or "",
            ],
        )  # fmt: skip
        if outcome == "moved":
            await self._ledger.load()
            raise AliasMoved(f"the alias of {namespace!r} points to {name}, not to {wanted.live.name}")
        if outcome == "done":  # by an earlier call whose answer was lost
            await self._ledger.load()
        else:
            record = VersionRecord(**{**asdict(record), "name": name, "documents": record.documents})
            self._ledger.withdrawn(namespace, wanted.names, record, entry, wanted.shadow)
        return self._ledger.resolve(namespace, name)
