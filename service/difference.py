"""What lies between two versions: the documents that only one of them has learned, how far apart their weights are, the probes.

Covered: any two versions of a namespace, in either order, on one chain or on two. Not covered: HTTP (`routes/versions.py`).
"""

from dataclasses import asdict
from typing import Any

from adapters.drift import UNTOUCHED
from service.runtime import Runtime
from service.version_record import VersionRecord


def difference(runtime: Runtime, namespace: str, old: str, new: str) -> dict[str, Any]:
    """From version `old` to version `new`. Reads both from disk, so it may take seconds.

    Raises:
        UnknownNamespace, UnknownVersion, NotReady
    """
    before, after = runtime.ledger.resolve(namespace, old), runtime.ledger.resolve(namespace, new)
    store, base = runtime.store, runtime.base.digest
    links, further = store.lineage(before.digest, base), store.lineage(after.digest, base)
    gone, come = set(links).difference(further), set(further).difference(links)
    distances = runtime.rebuild(after.digest)[0].distances(runtime.rebuild(before.digest)[0])
    return {
        "from": before.name,
        "to": after.name,
        "namespace": namespace,
        "documents": {
            "added": store.learned(link for link in further if link in come),
            "removed": store.learned(link for link in links if link in gone),
        },
        "layers": [{"layer": layer} | asdict(distance) for layer, distance in distances.items()],
        "drift": _probes(before, after),
    }


def _probes(before: VersionRecord, after: VersionRecord) -> dict[str, dict[str, float | None]]:
    """Each probe as it was when either version was published, and the change."""
    seen: list[dict[str, float]] = [r.measured or {} for r in (before, after)]
    found: dict[str, dict[str, float | None]] = {}
    for probe in asdict(UNTOUCHED):
        one, other = (s.get(probe) for s in seen)
        found[probe] = {"from": one, "to": other, "change": None if one is None or other is None else other - one}
    return found
