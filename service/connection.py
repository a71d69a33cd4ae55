"""One Redis client for the whole server.

Redis-py types every answer as a union over decoded and raw, so that strict typing would be casts only; `Client` says so once.
"""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

Client = Any
"""A `redis.asyncio.Redis` that decodes answers to str."""


def connect(url: str) -> Client:
    """A client that fails at once when Redis is away: requests are then answered 503, and the worker has patience of its own."""
    return Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 1), socket_connect_timeout=2)
