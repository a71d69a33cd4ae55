"""Is it alive, is it ready, what does it measure."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from adapters.views import question_form
from infold import __version__
from service.routes.access import MayMeasure
from service.routes.common import RuntimeOf

router = APIRouter()
LONGEST_WAIT_SECONDS = 2.0
"""For Redis to answer a scrape: a Redis that hangs must show in the metrics, not keep them away."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(runtime: RuntimeOf) -> dict[str, Any]:
    """The model is loaded; stays so while updates apply."""
    if runtime.failure is not None:
        return JSONResponse({"status": "failed", "reason": str(runtime.failure)}, 503)  # type: ignore[return-value]
    if not runtime.engine.alive:
        return JSONResponse({"status": "failed", "reason": "the decoding thread has ended"}, 503)  # type: ignore[return-value]
    shown = {"status": "ready", "model": runtime.settings.model_name}
    if runtime.learns_elsewhere:
        return shown | {"learning": "elsewhere", "scorer": "elsewhere"}
    scorer = {None: "pending", True: "trained", False: "none: surprise weights"}[runtime.scorer_trained]
    return shown | {"learning": runtime.scorer_trained is not None, "scorer": scorer}


@router.get("/version")
async def version(runtime: RuntimeOf) -> dict[str, Any]:
    """Of the software, and of the base model; and the forms of a question that is put to it, and of the views that it learns."""
    base, template = runtime.base, runtime.template
    stop = [] if template.chat else list(template.view_stop)  # a chat ends its turns itself
    forms = {"question": question_form(base, template), "view": template.view_form, "stop": stop}
    return {"version": __version__, "model": runtime.settings.model_name, "digest": base.digest, "forms": forms}


@router.get("/metrics", response_class=Response)
async def metrics(runtime: RuntimeOf, _: MayMeasure) -> Response:
    """Prometheus exposition; queue gauges are read from Redis at this moment, and keep their last values while it is away."""
    shown = runtime.metrics
    try:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            lengths = await runtime.queue.lengths(runtime.settings.namespaces)
        for namespace, (depth, oldest, dead) in zip(runtime.settings.namespaces, lengths, strict=True):
            shown.queue_depth.labels(namespace).set(depth)
            shown.queue_oldest_age.labels(namespace).set(oldest)
            shown.dead_letters.labels(namespace).set(dead)
        shown.redis_up.set(1)
    except (RedisError, TimeoutError):
        shown.redis_up.set(0)
    written = await asyncio.to_thread(generate_latest, shown.registry)  # of many namespaces it takes a tenth of a second
    return Response(written, media_type=CONTENT_TYPE_LATEST)
