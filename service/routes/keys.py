"""API keys: make one, see all, revoke one; and what one's own may do."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from service.api_keys import ApiKey
from service.errors import InvalidRequest
from service.routes.access import Access, MayRule
from service.routes.common import RuntimeOf
from service.schemas import KeyIn

router = APIRouter()


@router.post("/keys", status_code=201)
async def create(runtime: RuntimeOf, access: MayRule, body: KeyIn) -> dict[str, Any]:
    """A new key. `key` is what its owner sends; it is shown this once, and stored nowhere."""
    if body.namespaces and "metrics" in body.scopes:
        raise InvalidRequest("metrics are of all namespaces: a key with that scope cannot be bound to some", param="scopes")
    for namespace in body.namespaces or ():
        access.namespace(namespace)
    async with runtime.audit.of(access.key, "keys.create", None) as ids:
        made, secret = await runtime.api_keys.create(body.name, body.scopes, body.namespaces, body.rate, body.max_body_bytes)
        ids.append(made.id)
    return _out(made) | {"key": secret}


@router.get("/keys")
async def listed(runtime: RuntimeOf, _: MayRule) -> dict[str, Any]:
    """All keys, without their secrets."""
    return {"keys": [_out(key) for key in await runtime.api_keys.all()]}


@router.delete("/keys/{key_id}")
async def revoke(runtime: RuntimeOf, access: MayRule, key_id: str) -> dict[str, Any]:
    """Refuse a key from now on."""
    async with runtime.audit.of(access.key, "keys.revoke", None, key_id):
        await runtime.api_keys.revoke(key_id)
    return {"revoked": key_id}


@router.get("/access")
async def own(runtime: RuntimeOf, request: Request) -> dict[str, Any]:
    """What the key of this request may do, in which namespaces, and which of them it means where none is named."""
    access = Access(request.scope["api_key"], runtime)
    home = access.home if access.home in access.namespaces else None
    return {"scopes": access.scopes, "namespaces": access.namespaces, "namespace": home}


def _out(key: ApiKey) -> dict[str, Any]:
    return {name: value for name, value in asdict(key).items() if name != "sha256"}
