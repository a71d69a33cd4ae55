"""What would keep a server from starting or from learning, found before it does.

Covered: the checks below, on this machine. Not covered: a running server's health (`/readyz`, `/metrics`).
"""

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

import redis
import torch

from adapters.errors import AdapterError
from adapters.measured import find_anchors, find_curvature, find_scorer
from adapters.targets import find_targets
from service.errors import DataDirectoryBusy, ServiceError
from service.model import load_model, load_template
from service.settings import Settings
from service.valkey import DataLock

LEAST_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    fine: bool
    text: str
    """What was found and, if it is not fine, what to do."""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    checks: tuple[Callable[[Settings], list[Finding]], ...] = (_device, _port, _disk, _data_directory, _redis, _model)
    return [finding for check in checks for finding in check(settings)]


def _device(_: Settings) -> list[Finding]:
    if torch.cuda.is_available():
        return [Finding(True, f"GPU: {torch.cuda.get_device_name()}")]
    return [Finding(True, f"no GPU seen; torch {torch.__version__} runs on the CPU")]


def _port(settings: Settings) -> list[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            return [Finding(False, f"cannot listen on {settings.host}:{settings.port} ({error}); choose another --port or --host")]
    return [Finding(True, f"{settings.host}:{settings.port} is free")]


def _disk(settings: Settings) -> list[Finding]:
    directory = settings.data_dir.absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    fine = free >= LEAST_FREE_BYTES
    return [
        Finding(
            fine, f"{free / 1e9:.1f} GB free for {settings.data_dir}" + ("" if fine else "; make room or choose another --data-dir")
        )
    ]


def _data_directory(settings: Settings) -> list[Finding]:
    try:
        DataLock(settings.data_dir).release()
    except (DataDirectoryBusy, OSError) as error:
        return [Finding(False, str(error))]
    return [Finding(True, f"data directory {settings.data_dir} is writable and not in use")]


def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        return [Finding(True, "embedded Valkey")]
    try:
        info = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, decode_responses=True).info("server")
    except redis.RedisError as error:
        return [Finding(False, f"Redis at {settings.redis_url} does not answer ({error}); start it, or leave --redis-url out")]
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    fine = version >= (6, 2)
    return [Finding(fine, f"Redis {info['redis_version']}" + ("" if fine else "; infold needs 6.2 or newer"))]


def _model(settings: Settings) -> list[Finding]:
    try:
        base = load_model(settings)
        targets = find_targets(base.model, settings.learn.targets)
        load_template(settings, base)
    except (AdapterError, ServiceError) as error:
        return [Finding(False, str(error))]
    found = [Finding(True, f"model {base.source}: {len(targets.names)} target layers, context {base.context}")]
    curved = find_curvature(base, settings.cache_dir, targets.names) is not None
    found.append(Finding(True, "curvature is there" if curved else "curvature will be measured at the first start"))
    anchored = find_anchors(base, settings.cache_dir) is not None
    found.append(Finding(True, "anchors are there" if anchored else "anchors will be sampled at the first start"))
    scored = find_scorer(base, settings.cache_dir) is not None
    found.append(
        Finding(scored, "scorer is there" if scored else f"no scorer for this model; run `infold train-scorer {base.source}`")
    )
    return found
