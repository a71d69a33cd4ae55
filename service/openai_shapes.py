"""What the OpenAI routes answer: objects, chunks and log-probabilities in OpenAI's shapes.

Covered: completions and chats, whole and streamed. Every object names the version of the weights that wrote it. Not covered:
requests (`openai_bodies.py`), running them (`answers.py`).
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.generation import Piece, ScoredToken

Decode = Callable[[int], str]
"""A token's text."""


@dataclass
class Choice:
    """One answer as far as it has been written."""

    index: int
    text: str = ""
    spelled: int = 0
    """Characters of its tokens before those of the last piece, if they are scored."""
    tokens: int = 0
    finish_reason: str | None = None
    scored: list[ScoredToken] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Go on with it."""
        self.text += piece.text
        self.tokens, self.finish_reason = piece.tokens, piece.finish_reason
        self.scored += piece.scored


class Shape:
    """Of one request: either a completion's or a chat's."""

    kind: str
    chunk_kind: str
    prefix: str

    def __init__(self, model: str, version: str, fingerprint: str, decode: Decode, logprobs: bool, spans: bool) -> None:
        """model: as the client named it. version, fingerprint: of the weights. spans: whether choices name their versions."""
        self._common = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "weight_version": version,
            "system_fingerprint": fingerprint,
        }
        self._decode, self._logprobs, self._spans, self._version = decode, logprobs, spans, version

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The answer without streaming."""
        written = sum(choice.tokens for choice in choices)
        return self._common | {
            "object": self.kind,
            "choices": [self._choice(c.index, self.content(c.text), c, 0) for c in choices],
            "usage": _usage(prompt_tokens, written),
        }

    def chunk(self, choice: Choice, piece: Piece, first: bool) -> dict[str, Any]:
        """One event of a stream. choice: `piece` included."""
        part = Choice(choice.index, piece.text, 0, piece.tokens, piece.finish_reason, list(piece.scored))
        delta = self._choice(choice.index, self.delta(piece.text, first), part, choice.spelled)
        choice.spelled += sum(len(self._decode(s.token)) for s in piece.scored)
        return self._common | {"object": self.chunk_kind, "choices": [delta]}

    def usage_chunk(self, prompt_tokens: int, written: int) -> dict[str, Any]:
        """The last event, if the client wants to know."""
        return self._common | {"object": self.chunk_kind, "choices": [], "usage": _usage(prompt_tokens, written)}

    def _choice(self, index: int, content: dict[str, Any], part: Choice, offset: int) -> dict[str, Any]:
        shown = {"index": index, **content, "logprobs": None, "finish_reason": part.finish_reason}
        if self._logprobs:
            shown["logprobs"] = self.logprobs(part.scored, offset)
        if self._spans and part.finish_reason is not None:  # the whole answer is of the version that it began with
            shown["weight_versions"] = [{"version": self._version, "start": 0, "end": part.tokens}]
        return shown

    def content(self, text: str) -> dict[str, Any]:
        """The text of a whole choice."""
        raise NotImplementedError

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        """The text of a chunk's choice."""
        raise NotImplementedError

    def logprobs(self, scored: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
        """Of some tokens. offset: characters of the choice before them."""
        raise NotImplementedError


class CompletionShape(Shape):
    """text_completion."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def content(self, text: str) -> dict[str, Any]:
        """See `Shape`."""
        return {"text": text}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        """See `Shape`."""
        del first
        return {"text": text}

    def logprobs(self, scored: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
        """See `Shape`."""
        tokens = [self._decode(s.token) for s in scored]
        offsets = [offset + sum(map(len, tokens[:place])) for place in range(len(tokens))]
        # of tokens that look alike the likelier one
        likeliest = [{self._decode(token): logprob for token, logprob in reversed(s.likeliest)} for s in scored]
        return {
            "tokens": tokens,
            "token_logprobs": [s.logprob for s in scored],
            "top_logprobs": likeliest if any(likeliest) else None,
            "text_offset": offsets,
        }


class ChatShape(Shape):
    """chat.completion."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def content(self, text: str) -> dict[str, Any]:
        """See `Shape`."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        """See `Shape`."""
        return {"delta": ({"role": "assistant"} if first else {}) | {"content": text}}

    def logprobs(self, scored: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
        """See `Shape`."""
        del offset
        return {"content": [self._one(s.token, s.logprob) | {"top_logprobs": [self._one(*t) for t in s.likeliest]} for s in scored]}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._decode(token)
        whole = "\ufffd" not in text  # else it is a part of a character, whose bytes are not known here
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def _usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
