"""One tree, one table, one form."""

from collections.abc import Iterator

import pytest

from adapters.errors import CorruptCheckpoint, EmptyDocument, InvalidTemplate
from service.errors import (
    STATUS,
    DataDirectoryBusy,
    Fenced,
    InvalidSettings,
    QueueFull,
    ServiceError,
    UnknownVersion,
    code_of,
    error_body,
    status_of,
)

NEVER_ANSWERED = {InvalidSettings, DataDirectoryBusy, Fenced}
"""What keeps a server from starting or a worker from learning; no client ever sees it."""


def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield from leaves(child) if child.__subclasses__() else [child]


def test_every_error_that_a_client_can_cause_has_a_status() -> None:
    ours = {kind for kind in leaves(ServiceError) if kind.__module__ == "service.errors"}
    assert ours - NEVER_ANSWERED <= set(STATUS)


@pytest.mark.parametrize("kind", sorted(STATUS, key=lambda kind: kind.__name__))
def test_every_status_is_that_of_an_error(kind: type[Exception]) -> None:
    assert 400 <= status_of(kind("because")) < 600


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EmptyDocument, 400),
        (InvalidTemplate, 400),
        (CorruptCheckpoint, 500),
        (KeyError, 500),
        (UnknownVersion, 404),
    ],
)
def test_the_status_follows_the_nearest_base(error: type[Exception], status: int) -> None:
    assert status_of(error("because")) == status


def test_codes_are_names_that_a_program_can_compare() -> None:
    assert code_of(QueueFull("full")) == "queue_full"
    assert code_of(EmptyDocument("empty")) == "empty_document"


@pytest.mark.parametrize("status", [400, 404, 405, 409, 412, 413, 415, 429, 500, 503])
def test_the_body_has_the_promised_form(status: int) -> None:
    error = error_body(status, "because", "code", "param")["error"]
    assert error == {"message": "because", "type": error["type"], "param": "param", "code": "code"}
    assert error["type"].endswith(("_error", "_failed"))
