"""Cut a document that is longer than the model's context into overlapping windows.

Covered: cutting at token boundaries, by character offsets, so that no character is lost; sentences that come again and again.
Not covered: joining views of several windows."""

import re
from bisect import bisect_right
from dataclasses import dataclass

from adapters.base_model import BaseModel
from adapters.errors import EmptyDocument

OVERLAP = 4
"""Consecutive windows share one part in `OVERLAP` of their tokens, so that a sentence on a border stands whole in one of them."""


SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")
_SENTENCES = re.compile(rf"({SENTENCE_END.pattern})")


@dataclass(frozen=True)
class Window:
    """One piece of a document."""

    text: str
    shared: int
    """How many of its tokens, from the first, the window before it has too."""


def distinct(document: str) -> str:
    """`document` without the sentences that it has said before: ten thousand copies of one teach what one teaches, at its price."""
    seen: set[str] = set()
    kept: list[str] = []
    parts = [*_SENTENCES.split(document), ""]
    for sentence, separator in zip(parts[::2], parts[1::2], strict=True):
        if sentence.strip() not in seen or not sentence.strip():
            kept += [sentence, separator]
            seen.add(sentence.strip())
    return "".join(kept)


def windows(base: BaseModel, document: str, size: int) -> list[Window]:
    """Pieces of `document` of at most `size` tokens each, in order, overlapping; the document itself if it fits.

    A character that takes more than `size` tokens stays whole.

    Raises:
        EmptyDocument: nothing but white space, or no token that follows another.
    """
    if not document.strip():
        raise EmptyDocument("the document is empty")
    encoded = base.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    total = len(offsets)
    if len(base.start) + total < 2:
        raise EmptyDocument("the document has no token that follows another")
    if total <= size:
        return [Window(document, 0)]
    at = [0, *(end for _, end in offsets[:-1]), len(document)]
    # A character may take several tokens: cut only between characters.
    cuts = [0, *(i for i in range(1, total) if offsets[i][0] >= at[i] > 0), total]

    def cut(limit: int, beyond: int) -> int:
        return cuts[max(bisect_right(cuts, limit) - 1, bisect_right(cuts, beyond))]

    found: list[Window] = []
    first = last = 0
    while True:
        shared, last = last - first, cut(first + size, first)
        found.append(Window(document[at[first] : at[last]], shared))
        if last == total:
            return found
        first = cut(last - size // OVERLAP, first)
        if cut(first + size, first) <= last:
            first = last  # what would be shared leaves no room for the next character
