"""Requests that wait for a slot: bounded for each namespace, and fair between namespaces.

The next is of the namespace with the fewest requests on their way, the longest unserved first among equals; within a
namespace, first come, first served. Not covered: locking (the engine's).
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from service.errors import QueueFull

T = TypeVar("T")


class Waiting(Generic[T]):
    """Queues by namespace."""

    def __init__(self, limit: int) -> None:
        """limit: how many may wait in one namespace."""
        self.limit = limit
        self._queues: dict[str, deque[T]] = {}  # none is empty
        self._served: dict[str, int] = {}
        """When each namespace was served last, by the number of those served."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        return (request for queue in self._queues.values() for request in queue)

    def add(self, namespace: str, request: T) -> None:
        """Put a request at the end. Raises QueueFull: too many of its namespace wait."""
        waiting = len(self._queues.get(namespace, ()))
        if waiting >= self.limit:
            raise QueueFull(f"{waiting} requests of namespace {namespace} are waiting; try again later", retry_after=1)
        self._queues.setdefault(namespace, deque()).append(request)

    def first(self, underway: Mapping[str, int]) -> T | None:
        """Whose turn it is. underway: how many requests of each namespace have a slot."""
        if not self._queues:
            return None
        return self._queues[self._next(underway)][0]

    def take(self, underway: Mapping[str, int]) -> T:
        """Remove what `first` shows."""
        namespace = self._next(underway)
        request = self._queues[namespace].popleft()
        if not self._queues[namespace]:
            del self._queues[namespace]
        self._served[namespace] = 1 + max(self._served.values(), default=0)
        return request

    def clear(self) -> None:
        """Remove all."""
        self._queues.clear()

    def _next(self, underway: Mapping[str, int]) -> str:
        return min(self._queues, key=lambda name: (underway.get(name, 0), self._served.get(name, 0)))
