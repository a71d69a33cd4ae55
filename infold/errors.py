"""Everything that can go wrong between a client and its server, as one tree, and the one table from an answer to an error."""


class InfoldError(Exception):
    """Root of all errors of `infold`."""


class Unreachable(InfoldError):
    """Nothing answers at the address, or the connection was lost."""


class UnexpectedAnswer(InfoldError):
    """What answers is no infold server, or one that this client does not understand."""


class Refused(InfoldError):
    """The server answered with an error.

    `code`: its stable name of it; `param`: the field at fault; `retry_after`: seconds after which to ask again.
    """

    def __init__(
        self, message: str, status: int = 500, code: str = "", param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


class BadRequest(Refused):
    """Something about the request cannot be used."""


class Unauthorized(Refused):
    """No API key, or not one of the server's."""


class Forbidden(Refused):
    """The API key may not do that."""


class NotFound(Refused):
    """No such namespace, version, model, job, document or canary."""


class Conflict(Refused):
    """Not in the state that it is in."""


class AliasMoved(Conflict):
    """Another version answers than was expected."""


class TooLarge(BadRequest):
    """A body or a document is over its limit."""


class TooMany(Refused):
    """A queue is full, or a rate used up; it can be tried again."""


class ServerFailed(Refused):
    """An error of the server's own."""


class Unavailable(ServerFailed):
    """The server is starting, or its Redis is away; it can be tried again."""


KINDS: dict[int, type[Refused]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: BadRequest,
    409: Conflict,
    412: AliasMoved,
    413: TooLarge,
    422: BadRequest,
    429: TooMany,
    503: Unavailable,
}
"""By status; other ones are a ServerFailed from 500 on, else a Refused."""

STATUSES = {"queue_full": 429, "rate_exceeded": 429, "not_ready": 503, "store_unavailable": 503}
"""Of errors that come in the middle of a stream, where there is no status any more; others are a 500."""


def refusal(
    message: str, status: int | None, code: str = "", param: str | None = None, retry_after: float | None = None
) -> Refused:
    """The error for an answer. status: None in the middle of a stream."""
    status = STATUSES.get(code, 500) if status is None else status
    kind = KINDS.get(status, ServerFailed if status >= 500 else Refused)
    return kind(message, status, code, param, retry_after)
