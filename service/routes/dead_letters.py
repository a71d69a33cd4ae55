"""Jobs that were given up: see them, try them again, let them go."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from service.routes.access import MayAdminister, Named
from service.routes.common import RuntimeOf
from service.schemas import job_out

router = APIRouter()


@router.get("/dead-letters")
async def dead_letters(
    runtime: RuntimeOf, access: MayAdminister, namespace: Named = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
) -> dict[str, Any]:
    """The latest ones, newest first, with why each was given up."""
    namespace = access.namespace(namespace)
    found, total = await runtime.dead_letters.list(namespace, limit)
    return {"dead_letters": [asdict(letter) for letter in found], "total": total}


@router.post("/dead-letters/{job_id}/retry")
async def retry(runtime: RuntimeOf, access: MayAdminister, job_id: str) -> dict[str, Any]:
    """Queue a job again, as if it had never been tried."""
    job = await access.job(job_id)
    async with runtime.audit.of(access.key, "dead_letters.retry", job.namespace, job_id):
        return job_out(await runtime.dead_letters.retry(job_id))


@router.delete("/dead-letters/{job_id}")
async def drop(runtime: RuntimeOf, access: MayAdminister, job_id: str) -> dict[str, Any]:
    """Take a job out of the dead letters; it stays failed."""
    job = await access.job(job_id)
    async with runtime.audit.of(access.key, "dead_letters.drop", job.namespace, job_id):
        return job_out(await runtime.dead_letters.drop(job_id))
