"""Provenance: what was learned, from which text, by which version."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from service.routes.common import RuntimeOf

router = APIRouter()


@router.get("/documents")
async def documents(
    runtime: RuntimeOf,
    namespace: str = "default",
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Ids, newest first."""
    found, total = await runtime.ledger.document_ids(namespace, offset, limit)
    return {"documents": found, "total": total}


@router.get("/documents/{document_id}")
async def document(runtime: RuntimeOf, document_id: str, namespace: str = "default") -> dict[str, Any]:
    """One document with its tokens' weights."""
    return await runtime.ledger.document(namespace, document_id)
