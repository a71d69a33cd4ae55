"""API keys: what each may do, in which namespaces, how often, how much at once. What Redis holds of them is in `keys.py`.

A key is `infold_<id>_<secret>`, and its secret 256 random bits. Only its SHA-256 is stored, which is right for secrets that nobody
can guess: a slow hash protects passwords that people choose, and would cost its time on every request. A key is found by its id,
which is no secret, and compared in constant time, also where there is none of that id.

Every request asks Redis, so what was revoked is refused at once, by every server. Only while Redis is away is a key believed that
was good when it answered last; nothing can be revoked then. The operator's own key (`admin_key`) is never stored.

Covered: creating, listing, revoking, recognising. Not covered: counting requests (`rates.py`), which route needs what
(`routes/access.py`), refusing (`gate.py`).
"""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import SecretStr
from redis.exceptions import RedisError

from service import keys
from service.connection import Client
from service.errors import InvalidApiKey, KeysOff, StoreUnavailable, UnknownKey

Scope = Literal["generate", "learn", "metrics", "admin"]
_FORM = re.compile(rb"infold_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NOBODYS = "0" * 64
"""Compared where there is nothing to compare with; the SHA-256 of nothing known."""
LONGEST_WAIT_SECONDS = 1.0
"""For Redis, before what is known already is believed."""


@dataclass(frozen=True)
class ApiKey:
    """One key, without its secret."""

    id: str
    name: str
    scopes: Sequence[str]
    namespaces: Sequence[str] | None = None
    """Those that it may touch and know of; None: all."""
    rate: int | None = None
    """Requests a minute; None: any number."""
    max_body_bytes: int | None = None
    """Of one request; None: what the server allows."""
    created: float = 0.0
    sha256: str = _NOBODYS

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope; `admin` has all."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, namespace: str) -> bool:
        """Whether it may touch the namespace, and know that it is there."""
        return self.namespaces is None or namespace in self.namespaces


ANYBODY = ApiKey("-", "anybody", ("admin",))
"""Whoever asks a server without keys."""
OPERATOR = ApiKey("admin", "admin_key", ("admin",))
"""Whoever has the key of the settings."""
ITSELF = ApiKey("infold", "infold", ("admin",))
"""The server, in the audit log."""


class ApiKeys:
    """Those of one deployment."""

    def __init__(self, redis: Client, admin_key: SecretStr | None) -> None:
        """admin_key: with it every request needs a key; None: none does."""
        self._redis, self.on = redis, admin_key is not None
        self._admin = _NOBODYS if admin_key is None else _sha256(admin_key.get_secret_value().encode())
        self._known: dict[str, ApiKey] = {}
        """As Redis had them last."""

    async def create(
        self, name: str, scopes: Sequence[str], namespaces: Sequence[str] | None, rate: int | None, max_body_bytes: int | None
    ) -> tuple[ApiKey, str]:
        """A new key, and what its owner must send, which is known nowhere else.

        Raises:
            KeysOff: nobody would ask for it.
        """
        if not self.on:
            raise KeysOff("this server asks nobody for a key; set INFOLD_ADMIN_KEY and start it again")
        key_id = secrets.token_hex(6)
        secret = f"infold_{key_id}_{secrets.token_urlsafe(32)}"
        bound = None if namespaces is None else tuple(namespaces)
        key = ApiKey(key_id, name, tuple(scopes), bound, rate, max_body_bytes, time.time(), _sha256(secret.encode()))
        await self._redis.hset(keys.API_KEYS, key_id, json.dumps(asdict(key)))
        return key, secret

    async def all(self) -> list[ApiKey]:
        """All of them, oldest first."""
        found = await self._redis.hgetall(keys.API_KEYS)
        return sorted((_key(text) for text in found.values()), key=lambda key: key.created)

    async def revoke(self, key_id: str) -> None:
        """It is refused from now on. Raises UnknownKey."""
        self._known.pop(key_id, None)
        if not await self._redis.hdel(keys.API_KEYS, key_id):
            raise UnknownKey(f"there is no key {key_id!r}", param="key_id")
        await self._redis.delete(keys.bucket(key_id))

    async def recognise(self, presented: bytes) -> ApiKey:
        """The key that was sent.

        Raises:
            InvalidApiKey: it is none, or not any more.
            StoreUnavailable: Redis does not answer, and the key was never seen here.
        """
        digest, form = _sha256(presented), _FORM.fullmatch(presented)
        key = OPERATOR if hmac.compare_digest(digest, self._admin) else None
        if key is None and form is not None:
            found = await self._find(form[1].decode())
            if hmac.compare_digest(digest, _NOBODYS if found is None else found.sha256):
                key = found
        if key is None:
            raise InvalidApiKey("this API key is not known, or was revoked")
        return key

    async def _find(self, key_id: str) -> ApiKey | None:
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                text = await self._redis.hget(keys.API_KEYS, key_id)
        except (RedisError, TimeoutError) as error:
            if key_id not in self._known:
                raise StoreUnavailable("Redis does not answer, and this API key has not been seen before", retry_after=2) from error
            return self._known[key_id]
        if text is None:
            self._known.pop(key_id, None)
            return None
        key = self._known[key_id] = _key(text)
        return key


def _sha256(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _key(text: str) -> ApiKey:
    fields: dict[str, Any] = json.loads(text)
    bound = fields["namespaces"]
    return ApiKey(**fields | {"scopes": tuple(fields["scopes"]), "namespaces": None if bound is None else tuple(bound)})
