"""Token ids to text as they come: incremental, linear in the length, and halting at stop strings.

Covered: characters spread over several tokens, stop strings spread over several tokens. Not covered: log-probabilities.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are not yet a character."""
_MOST_UNFINISHED = 3
"""Of them at the end of a text, the next token may change so many: no character has more than four bytes."""
_WINDOW = 8
"""Tokens of context that are decoded again with each new one, so that spacing comes out right."""


class TextStream:
    """The text of one request."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
        self._hold = max((len(s) - 1 for s in self._stop), default=0)
        self._ids: list[int] = []
        """The last tokens."""
        self._read = 0
        """Characters of their text that are certain."""
        self._pending = ""
        """Certain text that may be the beginning of a stop string."""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add one token; return the text that is now certain. `stopped` tells whether a stop string was reached."""
        self._ids.append(token)
        text = self._decode(self._ids)
        certain = max(self._read, len(text.rstrip(_UNFINISHED)), len(text) - _MOST_UNFINISHED)
        new, self._read = text[self._read : certain], certain
        if len(self._ids) > 2 * _WINDOW:
            del self._ids[:-_WINDOW]
            self._read = len(self._decode(self._ids)) - (len(text) - certain)
        return self._release(self._pending + new)

    def flush(self) -> str:
        """The rest, when no more tokens come."""
        if self.stopped:
            return ""
        rest = self._release(self._pending + self._decode(self._ids)[self._read :])
        rest, self._pending, self._ids, self._read = rest + self._pending, "", [], 0
        return rest

    def _release(self, text: str) -> str:
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)[1]]  # the one that ended first, however the tokens were cut
        keep = min(self._hold, len(text))
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
