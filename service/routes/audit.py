"""The audit log: who did what."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from service.routes.access import MayAdminister
from service.routes.common import RuntimeOf

router = APIRouter()


@router.get("/audit")
async def audit(
    runtime: RuntimeOf,
    access: MayAdminister,
    namespace: Annotated[str | None, Query(min_length=1)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> dict[str, Any]:
    """The latest entries, newest first: of one namespace, or of all that the key sees, and then of what concerns none."""
    if namespace is not None:
        wanted: list[str | None] = [access.namespace(namespace)]
    else:
        wanted = [*access.namespaces, *([None] if access.key.namespaces is None else [])]
    return {"audit": [asdict(entry) for entry in await runtime.audit.read(wanted, limit)]}
