"""Pieces on their way from the engine's thread to those who wait for them in an event loop.

A step writes a token for each running request; all of them go over at once, for waking a loop costs more than a token.
"""

import asyncio
from collections.abc import Sequence

from service.generation import Piece

Pieces = asyncio.Queue[Piece]
"""Where one request's pieces are waited for; a request has no more of them than tokens, so it needs no bound."""


class Delivery:
    """Pieces that have not been sent yet, by the loop of those who wait for them."""

    def __init__(self) -> None:
        self._pending: dict[asyncio.AbstractEventLoop, list[tuple[Pieces, Piece]]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, wanted: Pieces, piece: Piece) -> None:
        """To be sent."""
        self._pending.setdefault(loop, []).append((wanted, piece))

    def send(self) -> None:
        """Send all. Who waits in a loop that is closed gets nothing."""
        pending, self._pending = self._pending, {}
        for loop, pieces in pending.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, pieces)


def _put(pieces: Sequence[tuple[Pieces, Piece]]) -> None:
    for wanted, piece in pieces:
        wanted.put_nowait(piece)
