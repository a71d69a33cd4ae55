"""One Redis client for the whole server.

Redis-py types every answer as a union over decoded and raw, so that strict typing would be casts only; `Client` says so once.
"""

import re
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.errors import InvalidSettings

Client = Any
"""A `redis.asyncio.Redis` that decodes answers to str."""


PATIENCE_SECONDS = 0.5
"""Between attempts to reach Redis."""
LONGEST_BLOCK_SECONDS = 2.0
"""No blocking command may ask for more: an answer that takes longer than `_TIMEOUT_SECONDS` means that Redis is away."""
_TIMEOUT_SECONDS = 5.0
_MOST_CONNECTIONS = 10_000
"""As many as Redis itself allows: whoever waits for a job holds one, and must not keep the worker from having its own."""


def connect(url: str) -> Client:
    """A client that fails at once when Redis is away: requests are then answered 503, and the worker has patience of its own.

    Raises:
        InvalidSettings: not the URL of a Redis.
    """
    try:
        return Redis.from_url(
            url, decode_responses=True, retry=Retry(NoBackoff(), 1), max_connections=_MOST_CONNECTIONS,
            socket_connect_timeout=2, socket_timeout=_TIMEOUT_SECONDS,
        )  # fmt: skip
    except ValueError as error:
        raise InvalidSettings(f"redis_url {without_password(url)!r}: {error}") from error


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"(?<=//)[^/@]*@", "***@", url)
