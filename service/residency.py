"""Which versions' weights are in memory: leased to requests, pinned by aliases, the longest unused dropped first.

Covered: bounds, leases, loading on demand. Not covered: reading weights (`load` is given), routing rows (`VersionTable`).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import Tensor

from adapters.versioned_linear import BASE, VersionTable

Weights = Mapping[str, Tensor]


class Residency:
    """At most `limit` versions beside the base model, unless more are leased at once."""

    def __init__(self, table: VersionTable, limit: int, load: Callable[[str], Weights], on_change: Callable[[int], None]) -> None:
        """load: digest -> weights of the target layers; on_change: called with the number resident."""
        self._table, self._limit, self._load, self._on_change = table, limit, load, on_change
        self._leases: OrderedDict[str, int] = OrderedDict()  # digest -> leases, the longest unused first
        self._pins: dict[str, str] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def pin(self, name: str, digest: str | None) -> None:
        """Keep a version in memory on behalf of `name`, loading it if need be, and let go of what `name` kept before."""
        key = self.acquire(digest)
        with self._lock:
            before, self._pins[name] = self._pins.get(name, BASE), key
        self.release(before)

    def lease(self, digest: str | None) -> str | None:
        """Lease a version until `release` if it is in memory. Returns its key for `VersionTable.route`. Never waits for a load."""
        if digest is None:
            return BASE
        with self._lock:
            if digest not in self._leases:
                return None
            self._leases[digest] += 1
            self._leases.move_to_end(digest)
            return digest

    def acquire(self, digest: str | None) -> str:
        """Lease a version until `release`, loading it if need be. Returns its key for `VersionTable.route`."""
        key = self.lease(digest)
        if key is not None:
            return key
        assert digest is not None
        with self._loading:  # one load at a time; whoever waited may find it loaded
            key = self.lease(digest)
            if key is None:
                self.install(digest, self._load(digest), leases=1)
                key = digest
        return key

    def release(self, key: str) -> None:
        """End a lease."""
        if key == BASE:
            return
        with self._lock:
            self._leases[key] -= 1
            self._evict()

    def weights(self, key: str) -> Weights:
        """Target weights of a version that the caller has leased."""
        return self._table.weights(key)

    def install(self, digest: str, weights: Weights, leases: int = 0) -> None:
        """Make a version resident; unleased, it stays at least until another one is installed."""
        with self._lock:
            if digest not in self._leases:
                self._table.install(digest, weights)
                self._leases[digest] = 0
            self._leases[digest] += leases
            self._evict(spare=digest)

    def _evict(self, spare: str | None = None) -> None:
        unused = [d for d, leases in self._leases.items() if leases == 0 and d != spare]
        for digest in unused[: max(0, len(self._leases) - self._limit)]:
            del self._leases[digest]
            self._table.retire(digest)
        self._on_change(len(self._leases))
