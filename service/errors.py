"""Everything that can go wrong in the server, as one tree, and the one table from error to HTTP status.

Routes and services raise; nothing formats an error but `error_body`. The body is `{"error": {"message", "type", "param", "code"}}`.
"""

from collections.abc import Iterable
from typing import Any

from adapters.errors import AdapterError, CorruptCheckpoint, EmptyDocument, InvalidCanary


class ServiceError(Exception):
    """Root of all errors of `service`. `param` names the field at fault, `retry_after` the seconds to wait."""

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.param, self.retry_after = param, retry_after


class InvalidSettings(ServiceError):
    """A setting is out of range or unknown."""


class InvalidRequest(ServiceError):
    """A field of the request cannot be used."""


class InvalidApiKey(ServiceError):
    """No API key, or one that is not known, or not any more."""


class InsufficientScope(ServiceError):
    """The API key may not do this."""


class RateExceeded(ServiceError):
    """The API key has asked too often."""


class KeysOff(ServiceError):
    """The server asks nobody for a key."""


class UnknownKey(ServiceError):
    """No such API key."""


class WrongHost(ServiceError):
    """An open server was asked under the name of another."""


class TooSlow(ServiceError):
    """A request did not arrive in time."""


class UnknownNamespace(ServiceError):
    """No such namespace is served, as far as the caller may know."""

    def __init__(self, namespace: str, served: Iterable[str] = ()) -> None:
        super().__init__(f"namespace {namespace!r} is not served; served: {', '.join(sorted(served))}", param="namespace")


class UnknownVersion(ServiceError):
    """No such version in the namespace."""


class UnknownModel(ServiceError):
    """No such model is served."""


class UnknownJob(ServiceError):
    """No such job."""


class UnknownDocument(ServiceError):
    """No such document in the namespace."""


class UnknownCanary(ServiceError):
    """No such canary in the namespace."""


class TooManyCanaries(ServiceError):
    """Every update asks all canaries, so there may be only so many."""


class NotCancellable(ServiceError):
    """The job has started or ended."""


class KeyReused(ServiceError):
    """An Idempotency-Key came again with another body."""


class AliasMoved(ServiceError):
    """The alias does not point to the version that the caller expected."""


class NotADeadLetter(ServiceError):
    """The job has not been given up, or not any more."""


class Superseded(ServiceError):
    """A later job has replaced the document's text."""


class TooLarge(ServiceError):
    """A body or document is over its limit."""


class QueueFull(ServiceError):
    """Too much is waiting already."""


class NotReady(ServiceError):
    """The model is still being loaded or measured."""


class LearnsElsewhere(ServiceError):
    """Asked of a server that does not learn itself."""


class GenerationFailed(ServiceError):
    """A decode step failed, and with it the requests in it."""


class StoreUnavailable(ServiceError):
    """Redis does not answer."""


class DataDirectoryBusy(ServiceError):
    """Another server uses the data directory."""


class Fenced(ServiceError):
    """Another worker has taken the namespace, and what this one has begun there must change nothing."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"another worker writes namespace {namespace!r} now")
        self.namespace = namespace


STATUS: dict[type[Exception], int] = {
    InvalidRequest: 400,
    EmptyDocument: 400,
    InvalidCanary: 400,
    AdapterError: 400,
    InvalidApiKey: 401,
    InsufficientScope: 403,
    WrongHost: 403,
    TooSlow: 408,
    KeysOff: 409,
    RateExceeded: 429,
    UnknownKey: 404,
    CorruptCheckpoint: 500,
    UnknownNamespace: 404,
    UnknownVersion: 404,
    UnknownModel: 404,
    UnknownJob: 404,
    UnknownDocument: 404,
    UnknownCanary: 404,
    TooManyCanaries: 400,
    NotCancellable: 409,
    KeyReused: 409,
    NotADeadLetter: 409,
    Superseded: 409,
    AliasMoved: 412,
    TooLarge: 413,
    QueueFull: 429,
    GenerationFailed: 500,
    LearnsElsewhere: 501,
    NotReady: 503,
    StoreUnavailable: 503,
}
"""Looked up along the error's bases; anything else is a 500."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    412: "precondition_failed",
}
_TYPES |= {413: "invalid_request_error", 429: "rate_limit_error"}
_TYPES |= {500: "internal_error", 501: "not_implemented", 503: "unavailable_error"}


def status_of(error: Exception) -> int:
    """HTTP status of an error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The body that every error is answered with."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: Exception) -> dict[str, Any]:
    """The body for an error of the table."""
    return error_body(status_of(error), str(error), code_of(error), getattr(error, "param", None))


def code_of(error: Exception) -> str:
    """Stable machine-readable name: QueueFull -> queue_full."""
    name = type(error).__name__
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
