"""Who may come in: every request shows a key, unless there are none, and counts against its rate; strangers are not read.

Covered: authentication, rates, before a body is read; the host that an open server answers to; refusing to be open where others
can reach it. Not covered: which route needs which scope, which namespaces a key sees (`routes/access.py`).
"""

import ipaddress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api_keys import ANYBODY, ApiKey, ApiKeys
from service.errors import InvalidApiKey, InvalidSettings, ServiceError, WrongHost, error_of, status_of
from service.rates import Rates
from service.settings import Settings

OPEN_PATHS = frozenset({"/", "/favicon.ico", "/healthz", "/readyz"})
OPEN_FOLDERS = ("/ui/",)
"""The page's own files: they hold nothing, and ask for a key themselves."""


def check_exposure(settings: Settings) -> None:
    """Raises InvalidSettings: others could reach a server that asks nobody for a key."""
    if settings.admin_key is None and not settings.allow_open and not _loopback(settings.host):
        raise InvalidSettings(
            f"{settings.host} can be reached from other machines, and there is no key: set INFOLD_ADMIN_KEY (the output of "
            "`openssl rand -hex 32`, say) and make keys with `infold keys create`; or listen on 127.0.0.1; or set "
            "INFOLD_ALLOW_OPEN=true if something else keeps strangers out"
        )


class Gate:
    """Lets requests in, each as a key."""

    def __init__(self, app: ASGIApp, api_keys: ApiKeys, rates: Rates, settings: Settings) -> None:
        self._app, self._keys, self._rates = app, api_keys, rates
        self._local = not api_keys.on and not settings.allow_open
        """Whether nothing but this machine's own programs may ask."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope["api_key"] = await self._admit(scope)
        except ServiceError as error:
            await refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> ApiKey | None:
        """The key that the request comes with; None: it needs none.

        Raises:
            InvalidApiKey, RateExceeded, StoreUnavailable, WrongHost
        """
        headers = dict(scope["headers"])
        if not self._keys.on:
            if self._local and not _loopback(_host(headers.get(b"host", b""))):
                raise WrongHost("this server has no keys, and answers only to localhost: a page of another site may be asking")
            return ANYBODY
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return None
        scheme, _, presented = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not presented.strip():
            raise InvalidApiKey("an API key is needed: `Authorization: Bearer <key>`")
        key = await self._keys.recognise(presented.strip())
        await self._rates.take(key)
        return key


async def refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error, and close: what else the client sends is not read."""
    headers = {"Connection": "close"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    await JSONResponse(error_of(error), status_of(error), headers)(scope, receive, send)


def _host(header: bytes) -> str:
    """Of a Host header, without its port."""
    name = header.decode("latin-1").strip()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def _loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    if host.lower() in ("", "localhost"):  # "": of HTTP/1.0, which no browser speaks
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
