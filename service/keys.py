"""The Redis schema: every key that infold uses, and what a crash does to it.

    infold:{ns}:jobs                  stream   one entry {job} per job that is queued or running; group `learners`
    infold:{ns}:dead                  stream   {job, document, attempts, error} of jobs that were given up
    infold:{ns}:documents             zset     document ids by time of acceptance
    infold:{ns}:document:{id}         hash     text, sha256, metadata, accepted_at; job, and jobs: all there were; when read:
                                               version, tokens, learned_at; if it came to nothing, known already or rejected:
                                               nothing, the digest of the version that it was read on, which `version` names, and
                                               if it was rejected: rejected; to be taken back: forgetting, the job that does;
                                               in no version any more: lost
    infold:{ns}:doomed                set      digests of versions to remove from disk; `snapshot:` before those of which only
                                               that must go; `texts`: this store's log holds removed ones
    infold:{ns}:versions              hash     v<N> -> JSON {name, digest, parent, documents, job_id, created, drift, bytes}
    infold:{ns}:version_count         string   the last N given
    infold:{ns}:alias                 string   the version that requests get by default; absent: v0
    infold:{ns}:shadow                string   the version that was learned last without being served; absent: none
    infold:{ns}:canaries              hash     id -> JSON {prompt, answer, counts}
    infold:{ns}:idempotency:{key}     string   JSON {body, jobs}; a day
    infold:{ns}:writer                string   the worker that may write the namespace; runs out unless it is renewed
    infold:{ns}:fence                 string   the token of the last worker that has become that; each gets a higher one
    infold:moves                      stream   {namespace, version, served, withdrawn} of aliases that moved; the last 10,000
    infold:{ns}:audit                 stream   {key, name, action, ids, outcome, ns} of what was asked for; about the last 10,000
    infold:audit                      stream   the same of what concerns no namespace: keys
    infold:keys                       hash     API keys: id -> JSON {name, scopes, namespaces, rate, ...; sha256 of the key}
    infold:rate:{key}                 hash     held, at: requests that an API key has left, and since when; two minutes
    infold:job:{id}                   hash     job_id, namespace, document_id, kind, exact, status, attempts, version, report,
                                               error, timestamps; given up: dead, its entry in the stream of dead letters;
                                               traceparent, the W3C trace context of the request, where traces are made
    infold:job:{id}:events            stream   {status, stage}: what /learn/{id}/events and `wait` follow; an hour after the end

Every change that spans keys is one Lua script, so a crash leaves all of it or nothing.
 - Crash before a job is accepted: nothing is there. After: it is in the stream.
 - Crash while learning: the entry is still pending; the next start claims it and learns it from the beginning. A version
   directory that was written but not published is not in `versions` and is never served.
 - Publishing registers the version, moves the alias and ends the job in one script; a redelivered job that has ended is
   only acknowledged. So a document is applied once, wherever the process dies.
 - Giving a job up ends it, puts it among the dead letters and takes it out of the queue in one script. Retrying a dead letter
   takes it from there and queues it in one script. So a job that was given up is in one place, wherever the process dies.
 - Crash of a worker: the next one on its data directory goes on at once, under the same name. Others, on other machines, wait
   until `writer` has run out; then one of them takes it, and finds what was pending under the group's one consumer.
 - A worker that was only stopped, and wakes up after that: every script that starts, ends or publishes a job compares its token
   with `fence` first, and does nothing. It forgets what it had begun, and waits.
 - A document that comes to nothing is noted so, and its job ended, in one script, which does nothing if the alias has moved.
 - Taking a document back withdraws its versions, moves the alias, removes its text and reports, queues those again that came to
   nothing on what is withdrawn, gives all other documents that named it a version that is there, and notes what is to be removed
   from disk (`doomed`), in one script, which gives the job its version. What is doomed is removed then, and at every start; only
   then does the job end. What is queued again is the job that it was, once in the queue; dropping old versions does the same.
 - An API key is one field: it is there or not. A crash right after what was asked for was done may lose its line of the audit.
 - A snapshot follows from the versions: a crash while one is written costs only time at the next start.
Commands of Redis 6.2 only.
"""

GROUP = "learners"
MOVES = "infold:moves"
"""Where aliases have moved, for processes that did not move them."""
API_KEYS = "infold:keys"
"""API keys by id, hashed."""


def jobs(namespace: str) -> str:
    """Stream of waiting and running jobs."""
    return f"infold:{namespace}:jobs"


def dead(namespace: str) -> str:
    """Stream of jobs given up."""
    return f"infold:{namespace}:dead"


def documents(namespace: str) -> str:
    """Ids of documents by time."""
    return f"infold:{namespace}:documents"


def document(namespace: str, document_id: str) -> str:
    """One document."""
    return f"infold:{namespace}:document:{document_id}"


def versions(namespace: str) -> str:
    """Version records by name."""
    return f"infold:{namespace}:versions"


def version_count(namespace: str) -> str:
    """Counter behind version names."""
    return f"infold:{namespace}:version_count"


def alias(namespace: str) -> str:
    """The version served by default."""
    return f"infold:{namespace}:alias"


def doomed(namespace: str) -> str:
    """What must still be removed of documents that were taken back."""
    return f"infold:{namespace}:doomed"


def shadow(namespace: str) -> str:
    """The version that was learned last in the shadow of what is served."""
    return f"infold:{namespace}:shadow"


def canaries(namespace: str) -> str:
    """Questions whose answers must not change."""
    return f"infold:{namespace}:canaries"


def idempotency(namespace: str, key: str) -> str:
    """What an Idempotency-Key was answered."""
    return f"infold:{namespace}:idempotency:{key}"


def audit(namespace: str | None) -> str:
    """What was asked for in a namespace; None: of the server."""
    return "infold:audit" if namespace is None else f"infold:{namespace}:audit"


def bucket(key_id: str) -> str:
    """Requests that an API key has left."""
    return f"infold:rate:{key_id}"


def writer(namespace: str) -> str:
    """The worker that may write."""
    return f"infold:{namespace}:writer"


def fence(namespace: str) -> str:
    """The newest token of a worker."""
    return f"infold:{namespace}:fence"


def job(job_id: str) -> str:
    """One job."""
    return f"infold:job:{job_id}"


def events(job_id: str) -> str:
    """What happened to a job."""
    return f"infold:job:{job_id}:events"
