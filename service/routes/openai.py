"""The OpenAI API: any client of it can ask infold, on the version of its choice.

model = <name>[:<namespace>][@<version>]
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from service.answers import Answer, begin_all, encode, fitting, merged
from service.errors import InvalidRequest, ServiceError, UnknownModel, error_of
from service.generation import Wanted
from service.openai_bodies import MOST_CHOICES, ChatIn, CompletionIn
from service.openai_shapes import ChatShape, Choice, CompletionShape, Shape
from service.routes.access import Access, MayGenerate
from service.routes.common import LAST_EVENT, RuntimeOf, event
from service.runtime import Runtime
from service.version_record import VersionRecord

router = APIRouter(prefix="/v1")
_SUFFIX = re.compile(r"(?::(?P<namespace>[^:@]+))?(?:@(?P<version>[^:@]+))?")


@router.get("/models")
async def models(runtime: RuntimeOf, access: MayGenerate) -> dict[str, Any]:
    """The model, once for each namespace."""
    return {"object": "list", "data": [_model(runtime, namespace) for namespace in access.namespaces]}


@router.get("/models/{model:path}")
async def model(runtime: RuntimeOf, access: MayGenerate, model: str) -> dict[str, Any]:
    """One of them."""
    namespace, record = find(access, model)
    return _model(runtime, namespace) | {"id": model, "weight_version": record.name}


@router.post("/completions", response_model=None)
async def completions(
    request: Request, runtime: RuntimeOf, access: MayGenerate, body: CompletionIn
) -> dict[str, Any] | StreamingResponse:
    """Texts after prompts."""
    namespace, record = find(access, body.model)
    if len(body.prompts) * body.choices > MOST_CHOICES:
        raise InvalidRequest(f"{len(body.prompts)} prompts with n = {body.choices}: at most {MOST_CHOICES} choices", param="n")
    prompts = [await encode(runtime, p) if isinstance(p, str) else _tokens(runtime, p) for p in body.prompts]
    shape = CompletionShape(*_shown(runtime, body, record))
    return await _answer(request, runtime, body, namespace, record, prompts, shape)


@router.post("/chat/completions", response_model=None)
async def chat_completions(
    request: Request, runtime: RuntimeOf, access: MayGenerate, body: ChatIn
) -> dict[str, Any] | StreamingResponse:
    """The assistant's next turn."""
    namespace, record = find(access, body.model)
    prompt = await asyncio.to_thread(_chat, runtime, body)
    shape = ChatShape(*_shown(runtime, body, record))
    return await _answer(request, runtime, body, namespace, record, [fitting(runtime, prompt, "messages")], shape)


def find(access: Access, model: str) -> tuple[str, VersionRecord]:
    """Namespace and version that a model's name means.

    Raises:
        UnknownModel: another model, or no such namespace or version.
    """
    runtime, name = access.runtime, access.runtime.settings.model_name
    found = _SUFFIX.fullmatch(model[len(name) :]) if model.startswith(name) else None
    if found is None:
        raise UnknownModel(f"the model is {name!r}, or {name!r}:<namespace>@<version>; there is no {model!r}", param="model")
    try:
        first = (access.namespaces if len(access.namespaces) == 1 else runtime.settings.namespaces)[0]
        namespace = access.namespace(found["namespace"] or first)
        return namespace, runtime.ledger.resolve(namespace, found["version"])
    except ServiceError as error:
        raise UnknownModel(str(error), param="model") from error


def _model(runtime: Runtime, namespace: str) -> dict[str, Any]:
    name, record = runtime.settings.model_name, runtime.ledger.resolve(namespace)
    shown = name if namespace == runtime.settings.namespaces[0] else f"{name}:{namespace}"
    return {"id": shown, "object": "model", "created": int(record.created), "owned_by": "infold", "root": name} | {
        "namespace": namespace,
        "max_model_len": runtime.base.context,
        "weight_version": record.name,
    }


def _shown(runtime: Runtime, body: CompletionIn | ChatIn, record: VersionRecord) -> tuple[Any, ...]:
    """What a shape is made of."""
    tokenizer = runtime.base.tokenizer

    def decode(token: int) -> str:
        return str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    fingerprint = f"fp_{(record.digest or runtime.base.digest)[:12]}"
    return body.model, record.name, fingerprint, decode, body.alternatives is not None, body.return_weight_versions


def _chat(runtime: Runtime, body: ChatIn) -> list[int]:
    """The prompt of a chat, as views are put. What a client wrote can end no turn and speak for nobody else."""
    base, own = runtime.base, runtime.template.chat_template
    turns = [t | {"content": base.inert(t["content"])} for t in body.turns]
    if not own and not base.tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template; use /v1/completions", param="messages")
    try:
        if own:
            put = base.tokenizer.apply_chat_template(turns, chat_template=own, tokenize=False, add_generation_prompt=True)
            return base.encode(str(put))
        encoded: Any = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])
    except Exception as error:  # whatever a template raises, which is code that came with the model
        raise InvalidRequest(f"the model's chat template refuses these messages: {error}", param="messages") from error


def _tokens(runtime: Runtime, prompt: Sequence[int]) -> tuple[int, ...]:
    vocabulary = int(runtime.base.model.config.vocab_size)
    if any(not 0 <= token < vocabulary for token in prompt):
        raise InvalidRequest(f"tokens are numbers from 0 to {vocabulary - 1}", param="prompt")
    return fitting(runtime, prompt)


async def _answer(
    request: Request,
    runtime: Runtime,
    body: CompletionIn | ChatIn,
    namespace: str,
    record: VersionRecord,
    prompts: Sequence[tuple[int, ...]],
    shape: Shape,
) -> dict[str, Any] | StreamingResponse:
    """All choices of all prompts, whole or streamed."""
    room = min(runtime.base.context - len(prompt) for prompt in prompts)
    most = body.most_tokens or room
    if body.max_tokens is None and isinstance(body, CompletionIn):
        most = min(most, room)  # nobody asked for so many
    if most > room:
        raise InvalidRequest(f"the prompt leaves room for {room} tokens in the model's context", param="max_tokens")
    wanted = [
        Wanted(namespace, prompt, most, body.sampling(choice), tuple(body.stop or ()), body.ignore_eos, body.alternatives)
        for prompt in prompts
        for choice in range(body.choices)
    ]
    answers = await begin_all(runtime, record, wanted)
    prompt_tokens = sum(map(len, prompts))
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(answers, shape, prompt_tokens, usage), media_type="text/event-stream")
    choices = [Choice(index) for index in range(len(answers))]
    async with aclosing(merged(answers)) as pieces:  # which cancels the requests if their client has hung up
        async for place, piece in pieces:
            choices[place].add(piece)
            if piece.finish_reason is None and await request.is_disconnected():
                break
    return shape.whole(choices, prompt_tokens)


async def _events(answers: Sequence[Answer], shape: Shape, prompt_tokens: int, usage: bool) -> AsyncIterator[bytes]:
    choices = [Choice(index) for index in range(len(answers))]
    nothing = {"usage": None} if usage else {}
    begun: set[int] = set()
    try:
        async with aclosing(merged(answers)) as pieces:
            async for place, piece in pieces:
                choices[place].add(piece)
                yield event(shape.chunk(choices[place], piece, place not in begun) | nothing)
                begun.add(place)
        if usage:
            yield event(shape.usage_chunk(prompt_tokens, sum(choice.tokens for choice in choices)))
    except ServiceError as error:  # too late for a status
        yield event(error_of(error))
        return
    yield LAST_EVENT
