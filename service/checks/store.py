"""Redis: reached, new enough, and set up so that it loses nothing."""

import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.checks.finding import Check, Finding
from service.connection import without_password
from service.settings import Settings

LEAST_VERSION = (6, 2)
MOST_SKEW_SECONDS = 2.0
CHECK = "Redis"


def store(settings: Settings) -> list[Finding]:
    """All that can be asked without the right to configure."""
    if settings.redis_url is None:
        return [Finding("ok", CHECK, "the embedded Valkey")]
    try:
        with redis.Redis.from_url(
            settings.redis_url, socket_connect_timeout=2, socket_timeout=5, decode_responses=True, retry=Retry(NoBackoff(), 0)
        ) as client:
            info: dict[str, Any] = dict(client.info("all"))
            seconds, micros = client.time()
    except redis.AuthenticationError as error:
        return [Finding("fix", CHECK, f"it refuses us: {error}", "put the password into the URL: redis://:PASSWORD@HOST:6379")]
    except (redis.RedisError, ValueError, OSError) as error:
        where = without_password(settings.redis_url)
        return [Finding("fix", CHECK, f"{where} does not answer: {error}", "start it, or leave --redis-url out")]
    wrong = [*_kind(info), *_durability(info), *_skew(time.time() - (seconds + micros / 1e6))]
    return wrong or [Finding("ok", CHECK, f"{info['redis_version']}, every write kept")]


CHECKS: tuple[Check, ...] = (store,)


def _kind(info: dict[str, Any]) -> list[Finding]:
    found = []
    if tuple(int(part) for part in str(info["redis_version"]).split(".")[:2]) < LEAST_VERSION:
        remedy = "infold needs 6.2 or newer: update it, or leave --redis-url out"
        found.append(Finding("fix", CHECK, f"it is version {info['redis_version']}", remedy))
    if info.get("role") not in (None, "master"):
        found.append(Finding("fix", CHECK, "it is a replica, which cannot be written", "name the primary in --redis-url"))
    if info.get("cluster_enabled"):
        found.append(Finding("fix", CHECK, "it is a cluster", "infold needs a single Redis, or a primary with replicas"))
    return found


def _durability(info: dict[str, Any]) -> list[Finding]:
    found = []
    if not info.get("aof_enabled"):
        remedy = "CONFIG SET appendonly yes, and in its configuration: a crash would lose accepted documents"
        found.append(Finding("warn", CHECK, "appendonly is off", remedy))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        remedy = (
            "CONFIG SET maxmemory-policy noeviction, and in its configuration: it would drop documents and jobs when it is full"
        )
        found.append(Finding("warn", CHECK, f"its eviction policy is {policy}", remedy))
    return found


def _skew(seconds: float) -> list[Finding]:
    if abs(seconds) <= MOST_SKEW_SECONDS:
        return []
    shown = f"its clock and this machine's are {abs(seconds):.0f} s apart"
    return [Finding("warn", "clock", shown, "run an NTP client on both: ages and latencies would be wrong by that much")]
