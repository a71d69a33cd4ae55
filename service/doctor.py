"""What would keep a server from starting or from learning, found before it does.

Covered: the checks of `checks/`, on this machine. Not covered: a running server's health (`/readyz`, `/metrics`).
"""

from service.checks import machine, model, storage, store
from service.checks.finding import Check, Finding
from service.settings import Settings

CHECKS: tuple[Check, ...] = machine.CHECKS + storage.CHECKS + store.CHECKS + model.CHECKS


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    return [finding for check in CHECKS for finding in check(settings)]
