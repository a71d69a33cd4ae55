"""The versions of a namespace, and which one answers."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from service.difference import difference
from service.export import export
from service.retention import surplus
from service.routes.access import MayAdminister, MayGenerate, Named
from service.routes.common import RuntimeOf, until_live
from service.schemas import CollectIn, ExportIn, RollbackIn, job_out, version_out

router = APIRouter()


@router.get("/versions")
async def versions(runtime: RuntimeOf, access: MayGenerate, namespace: Named = None) -> dict[str, Any]:
    """All versions, oldest first."""
    namespace = access.namespace(namespace)
    live = runtime.ledger.resolve(namespace).name
    return {"versions": [version_out(record, live) for record in runtime.ledger.versions(namespace)]}


@router.get("/versions/diff")  # before the next one: there is no version of that name
async def diff(
    runtime: RuntimeOf,
    access: MayGenerate,
    old: Annotated[str, Query(alias="from")],
    new: Annotated[str, Query(alias="to")],
    namespace: Named = None,
) -> dict[str, Any]:
    """What lies between two versions: documents, weights, probes."""
    namespace = access.namespace(namespace)
    return await asyncio.to_thread(difference, runtime, namespace, old, new)


@router.get("/versions/{version}")
async def version(runtime: RuntimeOf, access: MayGenerate, version: str, namespace: Named = None) -> dict[str, Any]:
    """One version."""
    namespace = access.namespace(namespace)
    return version_out(runtime.ledger.resolve(namespace, version), runtime.ledger.resolve(namespace).name)


@router.post("/versions/{version}/export", response_class=Response)
async def export_version(runtime: RuntimeOf, access: MayAdminister, version: str, body: ExportIn) -> Response:
    """A version as a LoRA adapter that PEFT loads, in a zip archive."""
    namespace = access.namespace(body.namespace)
    async with (
        runtime.audit.of(access.key, "export", namespace, version),
        runtime.scoring,
    ):  # one at a time, as in /score: it waits for the job that is being learned
        archive = await asyncio.to_thread(export, runtime, namespace, version, body.rank)
    named = {"Content-Disposition": f'attachment; filename="{namespace}-{version}.zip"'}
    return Response(archive, media_type="application/zip", headers=named)


@router.post("/versions/collect")
async def collect(runtime: RuntimeOf, access: MayAdminister, body: CollectIn, response: Response) -> dict[str, Any]:
    """Drop all but the newest versions, and what nothing is made of any more; with `dry_run`, only say what that would be."""
    namespace = access.namespace(body.namespace)
    if body.dry_run:
        found = await asyncio.to_thread(surplus, runtime.ledger, runtime.store, namespace, body.keep)
        return {"versions": list(found.names), "removed": len(found.digests), "bytes": found.bytes}
    async with runtime.audit.of(access.key, "collect", namespace) as ids:
        job = await runtime.state.orders.collect(namespace, body.keep)
        ids.append(job.job_id)
    [job], ended = await until_live(runtime, [job], body.wait) if body.wait else ([job], False)
    response.status_code = 200 if ended else 202
    return job_out(job)


@router.post("/versions/rollback")
async def rollback(runtime: RuntimeOf, access: MayAdminister, body: RollbackIn) -> dict[str, Any]:
    """Point the alias to a version, if it still points to `expected`."""
    namespace = access.namespace(body.namespace)
    async with runtime.audit.of(access.key, "rollback", namespace, body.to):
        record = await runtime.roll_back(namespace, body.to, body.expected, reason="operator")
    return version_out(record, record.name)
