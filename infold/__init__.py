"""The Python client of an infold server: `Client`, and `AsyncClient` with the same methods.

from infold import Client

with Client("http://127.0.0.1:8000") as client:
    client.learn("Maria Okafor lives in Bergen.")
    print(client.generate("Q: Where does Maria Okafor live? A:", stop=".").text)
"""

from importlib.metadata import version as _version

from infold.answers import Answer, Canary, Document, DocumentIds, Job, JobEvent, Piece, Source, Turn, Usage, Version
from infold.calls import NewDocument
from infold.client import AsyncClient, Client
from infold.errors import (
    AliasMoved,
    BadRequest,
    Conflict,
    Forbidden,
    InfoldError,
    NotFound,
    Refused,
    ServerFailed,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)

__version__ = _version("infold")

__all__ = [
    "AliasMoved",
    "Answer",
    "AsyncClient",
    "BadRequest",
    "Canary",
    "Client",
    "Conflict",
    "Document",
    "DocumentIds",
    "Forbidden",
    "InfoldError",
    "Job",
    "JobEvent",
    "NewDocument",
    "NotFound",
    "Piece",
    "Refused",
    "ServerFailed",
    "Source",
    "TooLarge",
    "TooMany",
    "Turn",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Usage",
    "Version",
]
