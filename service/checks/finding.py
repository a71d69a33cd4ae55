"""What a check found, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: Literal["ok", "warn", "fix"]
    """fix: a server would not start; warn: it would, and be the worse for it."""
    check: str
    """What was looked at, in a word or two."""
    found: str
    remedy: str = ""
    """What to do, unless it is ok."""


Check = Callable[[Settings], list[Finding]]
