"""The operator's canaries: questions whose answers must not change."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from adapters.memory import of_text
from service.canaries import Canary
from service.canary_watch import Asked, CanaryWatch
from service.errors import UnknownCanary
from service.routes.access import MayAdminister, Named
from service.routes.common import RuntimeOf
from service.schemas import CanariesIn

router = APIRouter()


def _watch(request: Request) -> CanaryWatch:
    watch: CanaryWatch = request.app.state.canary_watch
    return watch


WatchOf = Annotated[CanaryWatch, Depends(_watch)]


@router.get("/canaries")
async def canaries(runtime: RuntimeOf, access: MayAdminister, namespace: Named = None) -> dict[str, Any]:
    """All of them; `counts`: whether the served model has answered it so, and must not stop to."""
    namespace = access.namespace(namespace)
    return {"canaries": [_out(canary) for canary in await runtime.canaries.all(namespace)]}


@router.post("/canaries")
async def add(runtime: RuntimeOf, access: MayAdminister, watch: WatchOf, body: CanariesIn) -> dict[str, Any]:
    """Add some, or replace the answers of some, and ask all at once. `holds`: whether the live version answers so now."""
    namespace = access.namespace(body.namespace)
    base = runtime.base

    def check() -> list[Canary]:
        for wanted in body.canaries:
            of_text(base, wanted.prompt, wanted.answer)
        return [Canary(wanted.prompt, wanted.answer) for wanted in body.canaries]

    async with runtime.audit.of(access.key, "canaries.add", namespace) as ids:
        added = await asyncio.to_thread(check)
        ids += [canary.id for canary in added]
        await runtime.canaries.add(namespace, added)
    asked = await watch.look(namespace)
    return {"canaries": [_asked_out(one) for one in asked]}


@router.delete("/canaries")
async def remove(
    runtime: RuntimeOf,
    access: MayAdminister,
    namespace: Named = None,
    canary_id: Annotated[str | None, Query(alias="id", max_length=64)] = None,
) -> dict[str, Any]:
    """Remove one, or all."""
    namespace = access.namespace(namespace)
    async with runtime.audit.of(access.key, "canaries.remove", namespace, canary_id or "all"):
        removed = await runtime.canaries.remove(namespace, canary_id)
        if canary_id is not None and not removed:
            raise UnknownCanary(f"namespace {namespace!r} has no canary {canary_id!r}", param="id")
    return {"removed": removed}


def _out(canary: Canary) -> dict[str, Any]:
    return {"id": canary.id, "prompt": canary.prompt, "answer": canary.answer, "counts": canary.counts}


def _asked_out(one: Asked) -> dict[str, Any]:
    return _out(one.canary) | {"counts": one.canary.counts or one.held, "holds": one.held}
