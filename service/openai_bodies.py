"""Request bodies of the OpenAI routes. What is not supported is refused by name; what would change nothing is let through.

Covered: /v1/completions and /v1/chat/completions. Not covered: what is answered (`openai_shapes.py`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from service.errors import InvalidRequest
from service.generation import Sampling
from service.schemas import Body, Encodable, Finite, Stop

MOST_CHOICES = 128


class _Strict(Body, BaseModel):
    """Refuses fields that nobody reads, and by name those that OpenAI reads and infold does not."""

    UNSUPPORTED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields, and those of their values that ask for nothing."""

    @model_validator(mode="before")
    @classmethod
    def supported(cls, body: Any) -> Any:
        """Drop what asks for nothing.

        Raises:
            InvalidRequest: of a field that is not supported, and would change the answer.
        """
        if not isinstance(body, dict):
            return body
        for name in body.keys() & cls.UNSUPPORTED:
            if body[name] is not None and body[name] not in cls.UNSUPPORTED[name]:
                raise InvalidRequest(f"{name} is not supported by this server; leave it out", param=name)
        return {name: value for name, value in body.items() if name not in cls.UNSUPPORTED}


class StreamOptions(_Strict):
    """How to stream."""

    UNSUPPORTED = {"include_obfuscation": (False,)}
    include_usage: bool = False


class _Body(_Strict):
    """What both routes take."""

    UNSUPPORTED = {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        "metadata": ({},),
        "service_tier": ("auto", "default"),
        "prompt_cache_key": (),
        "safety_identifier": (),
    }
    model: str
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: Finite | None = Field(None, ge=0, le=2)
    top_p: Finite | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    """As in vLLM; -1 and 0: all tokens."""
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    """As in vLLM: write on after the end of the text."""
    user: str | None = None
    """An identifier of the client's; nothing depends on it."""
    return_weight_versions: bool = False
    """As in vLLM: each choice says which of its tokens were written by which version."""

    @model_validator(mode="after")
    def streaming(self) -> "_Body":
        """As OpenAI: options only with a stream."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options goes with stream only", param="stream_options")
        return self

    @property
    def choices(self) -> int:
        """How many answers a prompt gets."""
        return self.n or 1

    def sampling(self, choice: int) -> Sampling:
        """Of one choice: with a seed, each has its own."""
        temperature = 1.0 if self.temperature is None else self.temperature
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(temperature, self.top_p or 1.0, max(0, self.top_k or 0), seed)


def _few_prompts(prompt: Any) -> Any:
    if isinstance(prompt, list) and not prompt:
        raise ValueError("give at least one prompt")
    return prompt


Tokens = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Encodables = Annotated[list[Encodable], Field(fail_fast=True)]
ManyTokens = Annotated[list[Tokens], Field(fail_fast=True)]


class CompletionIn(_Body):
    """Body of POST /v1/completions."""

    UNSUPPORTED = {**_Body.UNSUPPORTED, "best_of": (1,), "echo": (False,), "suffix": ("",)}
    prompt: Annotated[Encodable | Tokens | Encodables | ManyTokens, BeforeValidator(_few_prompts)]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def most_tokens(self) -> int | None:
        """As OpenAI: 16 unless told."""
        return self.max_tokens or 16

    @property
    def alternatives(self) -> int | None:
        """See `Wanted`."""
        return self.logprobs


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Encodable


def _joined(content: Any) -> Any:
    """Text, also where it comes in parts."""
    if not isinstance(content, list):
        return content
    return "".join(TextPart.model_validate(part).text for part in content)


class Message(_Strict):
    """One turn of a chat."""

    UNSUPPORTED = {"name": (), "tool_calls": ([],), "refusal": (), "audio": (), "function_call": (), "annotations": ([],)}
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Encodable, BeforeValidator(_joined)]


class ChatIn(_Body):
    """Body of POST /v1/chat/completions."""

    UNSUPPORTED = {
        **_Body.UNSUPPORTED,
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (False, True),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "store": (False,),
        "reasoning_effort": (),
        "verbosity": (),
        "prediction": (),
        "web_search_options": (),
    }
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def scoring(self) -> "ChatIn":
        """As OpenAI: alternatives only with log-probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs goes with logprobs only", param="top_logprobs")
        return self

    @property
    def turns(self) -> list[dict[str, str]]:
        """For a chat template, which knows no developers."""
        return [{"role": "system" if m.role == "developer" else m.role, "content": m.content} for m in self.messages]

    @property
    def most_tokens(self) -> int | None:
        """None: as many as fit."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """See `Wanted`."""
        return (self.top_logprobs or 0) if self.logprobs else None
