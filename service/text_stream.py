"""Token ids to text as they come: incremental, linear in the length, and halting at stop strings.

Covered: characters spread over several tokens, stop strings spread over several tokens. Not covered: log-probabilities.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are not yet a character."""
_WINDOW = 6
"""Tokens of context that are decoded again with each new one, so that spacing comes out right."""


class TextStream:
    """The text of one request."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
        self._hold = max((len(s) - 1 for s in self._stop), default=0)
        self._ids: list[int] = []
        self._context = 0  # ids before this have no influence any more
        self._read = 0  # ids before this are in the text
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add one token; return the text that is now certain. `stopped` tells whether a stop string was reached."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context : self._read])
        after = self._decode(self._ids[self._context :])
        if len(after) <= len(before) or after.endswith(_UNFINISHED):
            return ""
        self._context, self._read = max(self._context, self._read - _WINDOW), len(self._ids)
        return self._release(self._pending + after[len(before) :])

    def flush(self) -> str:
        """The rest, when no more tokens come."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._context : self._read])
        rest, self._pending = self._pending + self._decode(self._ids[self._context :])[len(before) :], ""
        self._read = len(self._ids)
        return rest

    def _release(self, text: str) -> str:
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        keep = min(self._hold, len(text))
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
