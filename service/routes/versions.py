"""The versions of a namespace, and which one answers."""

from typing import Any

from fastapi import APIRouter

from service.routes.common import RuntimeOf
from service.schemas import RollbackIn, version_out

router = APIRouter()


@router.get("/versions")
async def versions(runtime: RuntimeOf, namespace: str = "default") -> dict[str, Any]:
    """All versions, oldest first."""
    live = runtime.ledger.resolve(namespace).name
    return {"versions": [version_out(record, live) for record in runtime.ledger.versions(namespace)]}


@router.get("/versions/{version}")
async def version(runtime: RuntimeOf, version: str, namespace: str = "default") -> dict[str, Any]:
    """One version."""
    return version_out(runtime.ledger.resolve(namespace, version), runtime.ledger.resolve(namespace).name)


@router.post("/versions/rollback")
async def rollback(runtime: RuntimeOf, body: RollbackIn) -> dict[str, Any]:
    """Point the alias to a version, if it still points to `expected`."""
    record = await runtime.roll_back(body.namespace, body.to, body.expected, reason="operator")
    return version_out(record, record.name)
