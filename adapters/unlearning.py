"""What taking a document back changes: whether its questions are still answered as it taught, and whether others fall with it.

Deltas form a group (`delta.py`), so taking one away is exact. But what was learned afterwards rehearsed the document, and was
folded into weights that knew it: its answers might outlive its delta. Measured, they do not (docs/LOG.md); if they ever should,
it shows here, and learning the later documents anew is the way that cannot leave anything.

Covered: asking. Not covered: which versions there are (the server's ledger).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.anchors import Anchors
from adapters.delta import DeltaSum
from adapters.memory import Memory, remembered
from adapters.workspace import Workspace

ASKED = 512
"""Lessons of others that are asked, the nearest first."""


@dataclass(frozen=True)
class Answered:
    """Of some questions: how many were answered as they had been learned."""

    asked: int
    before: int
    """With the document."""
    after: int
    """Without it."""


@dataclass(frozen=True)
class ForgetReport:
    """What was measured of one document that was taken back."""

    forgotten: Answered
    """Its own questions."""
    left: int
    """Of those that are still answered as it taught: those that were not before it was learned."""
    others: Answered
    """Questions that were learned from other documents."""


@dataclass(frozen=True)
class Life:
    """The weights that a document came into, and is taken out of."""

    former: DeltaSum
    """Before it was learned."""
    full: DeltaSum
    """With it, and with all that came later."""
    without: DeltaSum
    """Once it is taken back."""


def ask_after(
    workspace: Workspace, anchors: Anchors, life: Life, forgotten: Sequence[Memory], others: Sequence[Memory]
) -> ForgetReport:
    """Ask the lessons of the document, and those of others, at all of its life's weights. The last of them are left installed."""
    asked = list(others) if len(others) <= ASKED else anchors.nearest(forgotten, ASKED, others)
    workspace.install(life.former.weights())
    known = remembered(workspace, forgotten)
    workspace.install(life.full.weights())
    knew, held = remembered(workspace, forgotten), remembered(workspace, asked)
    workspace.install(life.without.weights())
    know, hold = remembered(workspace, forgotten), remembered(workspace, asked)
    return ForgetReport(
        Answered(len(forgotten), sum(knew), sum(know)),
        sum(now and not before for now, before in zip(know, known, strict=True)),
        Answered(len(asked), sum(held), sum(hold)),
    )


def without(memories: Sequence[Memory], forgotten: Sequence[Memory]) -> list[Memory]:
    """`memories` less `forgotten`; what another document taught as well stays."""
    gone, kept = Counter(forgotten), []
    for memory in memories:
        if gone[memory]:
            gone[memory] -= 1
        else:
            kept.append(memory)
    return kept
