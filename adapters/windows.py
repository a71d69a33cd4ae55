"""Cut a document that is longer than the model's context into overlapping windows.

Covered: cutting at token boundaries, by character offsets, so that no character is lost. Not covered: joining views
of several windows."""

from adapters.base_model import BaseModel
from adapters.errors import EmptyDocument

OVERLAP = 4
"""Consecutive windows share one part in `OVERLAP` of their tokens, so that a sentence on a border stands whole in one of them."""


def windows(base: BaseModel, document: str, size: int) -> list[str]:
    """Pieces of `document` of at most `size` tokens each, in order, overlapping; the document itself if it fits.

    Raises:
        EmptyDocument: nothing but white space.
    """
    if not document.strip():
        raise EmptyDocument("the document is empty")
    encoded = base.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    if len(offsets) <= size:
        return [document]
    stride = max(1, size - size // OVERLAP)
    starts = range(0, len(offsets) - size // OVERLAP, stride)
    return [document[offsets[a][0] : offsets[min(a + size, len(offsets)) - 1][1]] for a in starts]
