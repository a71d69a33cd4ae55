"""What a key may do and see: each route says which scope it needs, and asks here before it touches a namespace or a job.

What a key does not see is answered exactly as what does not exist.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, get_args

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from service.api_keys import ApiKey, Scope
from service.errors import InsufficientScope, UnknownNamespace
from service.job import Job
from service.queue import unknown
from service.routes.common import RuntimeOf
from service.runtime import Runtime

DEFAULT = "default"
"""The namespace of who names none, and sees several."""
_bearer = HTTPBearer(auto_error=False, description="An API key, where the server asks for one.")
"""For the OpenAPI document only: the gate has read it before."""


Named = Annotated[
    str | None,
    Query(min_length=1, description="None: the only one that the key sees, else `default`."),
]
"""The namespace that a request names in its query."""


@dataclass(frozen=True)
class Access:
    """Of one key to one server."""

    key: ApiKey
    runtime: Runtime

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Those that are served, as far as the key may know."""
        return tuple(n for n in self.runtime.settings.namespaces if self.key.sees(n))

    @property
    def scopes(self) -> tuple[str, ...]:
        """What the key may do. Metrics are of all namespaces, and not for a key that is bound to some."""
        may = [scope for scope in get_args(Scope) if self.key.may(scope)]
        return tuple(scope for scope in may if scope != "metrics" or self.key.namespaces is None)

    @property
    def home(self) -> str:
        """The namespace of a request that names none: the only one that the key sees, else `default`."""
        seen = self.namespaces
        return seen[0] if len(seen) == 1 else DEFAULT

    def namespace(self, named: str | None) -> str:
        """The namespace that a request is about: the one that it names, else `home`.

        Raises:
            UnknownNamespace: it is not served, or not for this key.
        """
        namespace = self.home if named is None else named
        if namespace not in self.namespaces:
            raise UnknownNamespace(namespace, self.namespaces)
        return namespace

    async def job(self, job_id: str) -> Job:
        """A job of a namespace that the key sees. Raises UnknownJob."""
        job = await self.runtime.queue.read(job_id)
        if not self.key.sees(job.namespace):
            raise unknown(job_id)
        return job


def needs(scope: Scope, everywhere: bool = False) -> Callable[..., Awaitable[Access]]:
    """A dependency: the access of a key that has the scope; everywhere: and that is not bound to namespaces."""

    async def access(request: Request, runtime: RuntimeOf, _: Annotated[object, Depends(_bearer)]) -> Access:
        key: ApiKey = request.scope["api_key"]
        if not key.may(scope):
            raise InsufficientScope(f"this needs a key with the scope {scope!r}; this one has: {', '.join(key.scopes)}")
        if everywhere and key.namespaces is not None:
            raise InsufficientScope("this needs a key that is not bound to namespaces")
        return Access(key, runtime)

    return access


MayGenerate = Annotated[Access, Depends(needs("generate"))]
MayLearn = Annotated[Access, Depends(needs("learn"))]
MayAdminister = Annotated[Access, Depends(needs("admin"))]
MayRule = Annotated[Access, Depends(needs("admin", everywhere=True))]
MayMeasure = Annotated[Access, Depends(needs("metrics", everywhere=True))]
