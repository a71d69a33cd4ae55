"""Documents: what was learned, from which text, by which version; and taking it back."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from service.routes.access import MayAdminister, MayLearn, Named
from service.routes.common import RuntimeOf, until_live
from service.schemas import job_out

router = APIRouter()


@router.get("/documents")
async def documents(
    runtime: RuntimeOf,
    access: MayLearn,
    namespace: Named = None,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Ids, newest first."""
    namespace = access.namespace(namespace)
    found, total = await runtime.documents.ids(namespace, offset, limit)
    return {"documents": found, "total": total}


@router.delete("/documents/{document_id:path}", status_code=202)
async def forget(
    runtime: RuntimeOf, access: MayAdminister, document_id: str, response: Response, namespace: Named = None,
    exact: bool = False, wait: Annotated[float, Query(ge=0, le=600)] = 0,
) -> dict[str, Any]:  # fmt: skip
    """Take a document back; with `exact`, by learning anew what came after it. With `wait`, as in POST /learn."""
    namespace = access.namespace(namespace)
    async with runtime.audit.of(access.key, "forget", namespace, document_id) as ids:
        job = await runtime.state.orders.forget(namespace, document_id, exact)
        ids.append(job.job_id)
    if wait:
        [job], ended = await until_live(runtime, [job], wait)
        if ended:
            response.status_code = 200
            return job_out(job)
    response.headers["Location"] = f"/learn/{job.job_id}"
    return {"job_id": job.job_id, "document_id": document_id, "status": job.status}


@router.get("/documents/{document_id:path}")
async def document(runtime: RuntimeOf, access: MayLearn, document_id: str, namespace: Named = None) -> dict[str, Any]:
    """One document with its tokens' weights."""
    namespace = access.namespace(namespace)
    return await runtime.documents.read(namespace, document_id)
