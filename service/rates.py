"""How often a key may ask: a token bucket in Redis, so that several servers count together.

A bucket holds as many requests as a key has a minute, and fills evenly: after silence they may come at once.

Covered: counting, and when to come again. Not covered: which key (`api_keys.py`).
"""

import asyncio
import time

from redis.exceptions import RedisError

from service import keys
from service.api_keys import LONGEST_WAIT_SECONDS, ApiKey
from service.connection import Client
from service.errors import RateExceeded

_TAKE = """
local rate, now = tonumber(ARGV[1]), tonumber(ARGV[2])
local held, before = unpack(redis.call('HMGET', KEYS[1], 'held', 'at'))
before = tonumber(before) or now
local at = math.max(now, before)  -- the clocks of two servers may differ
held = math.min(rate, (tonumber(held) or rate) + (at - before) * rate / 60)
local wait = 0
if held >= 1 then held = held - 1 else wait = math.ceil((1 - held) * 60 / rate) end
redis.call('HSET', KEYS[1], 'held', held, 'at', at)
redis.call('EXPIRE', KEYS[1], 120)  -- full by then, as is one that is not there
return wait
"""


class Rates:
    """The buckets of all keys."""

    def __init__(self, redis: Client) -> None:
        self._take = redis.register_script(_TAKE)

    async def take(self, key: ApiKey) -> None:
        """Count one request. While Redis is away none is counted: answering goes on.

        Raises:
            RateExceeded
        """
        if key.rate is None:
            return
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                wait = int(await self._take(keys=[keys.bucket(key.id)], args=[key.rate, time.time()]))
        except (RedisError, TimeoutError):
            return
        if wait:
            raise RateExceeded(f"this key has {key.rate} requests a minute, and they are used up", retry_after=wait)
