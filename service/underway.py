"""One request between its arrival and its last token: what was asked, what has been written, and where pieces of it go."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from service.delivery import Pieces
from service.generation import Course, ScoredToken, Wanted
from service.text_stream import TextStream


@dataclass(eq=False)
class Underway:
    """A request that waits, is read, or is answered."""

    wanted: Wanted
    version: str
    """Key of resident weights."""
    on_end: Callable[[], None]
    stream: TextStream
    loop: asyncio.AbstractEventLoop
    pieces: Pieces
    generator: torch.Generator
    accepted: float
    scored: list[ScoredToken] = field(default_factory=list)
    """Since the last piece."""
    tokens: list[int] = field(default_factory=list)
    """Written so far."""
    joined: float = 0.0
    first: float = 0.0
    touched: float = 0.0
    cancelled: bool = False

    @property
    def owner(self) -> tuple[str, str]:
        """Whose prefixes it may use."""
        return self.wanted.namespace, self.version

    @property
    def course(self) -> Course | None:
        """What there is to say when it ends."""
        return Course(self.accepted, self.joined, self.first, self.touched) if self.tokens else None
