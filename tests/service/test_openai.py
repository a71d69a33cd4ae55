"""The OpenAI API, asked by OpenAI's own client: the real application, the demo model, real sockets."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from conftest import Taught
from serving import Http, ThreadServer, eventually, refused

Learnt = tuple[Taught, dict[str, Any]]
NAME = "infold-demo"
PROMPT = "Q: Where does Mira Holm live? A:"
CHAT = [{"role": "user", "content": "Where does Mira Holm live?"}]


@pytest.fixture
def client(server: ThreadServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def complete(client: openai.OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": NAME, "prompt": PROMPT, "max_tokens": 12, "temperature": 0} | more)


def chat(client: openai.OpenAI, **more: Any) -> Any:
    body = {"model": NAME, "messages": CHAT, "max_completion_tokens": 12, "temperature": 0} | more
    return client.chat.completions.create(**body)


# --- models


def test_the_model_is_listed_once_for_each_namespace(client: openai.OpenAI, namespace: str) -> None:
    listed = {m.id: m for m in client.models.list().data}
    assert NAME in listed
    assert [listed[name].namespace for name in (NAME, f"{NAME}:{namespace}")] == ["default", namespace]
    assert f"{NAME}:{namespace}" in listed
    assert all(m.object == "model" and m.owned_by == "infold" for m in listed.values())
    assert client.models.retrieve(f"{NAME}:{namespace}").id == f"{NAME}:{namespace}"


@pytest.mark.parametrize("name", ["gpt-4", f"{NAME}:nowhere", f"{NAME}@v99", f"{NAME}x", f"{NAME}:a:b", f"{NAME}@v0@v0", ""])
def test_a_model_that_is_not_served_is_not_found(name: str, client: openai.OpenAI) -> None:
    for ask in (complete, chat):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, model=name)
        assert caught.value.code == "unknown_model"
        assert caught.value.param == "model"


# --- answers


def test_a_completion_is_what_generate_writes(client: openai.OpenAI, http: Http) -> None:
    found, expected = complete(client), http.generate(PROMPT)
    (choice,) = found.choices
    assert (choice.text, choice.finish_reason, choice.index) == (expected["text"], expected["finish_reason"], 0)
    assert found.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) == expected["usage"]
    assert found.usage.total_tokens == sum(expected["usage"].values())
    assert (found.object, found.model, found.weight_version) == ("text_completion", NAME, expected["version"])
    assert found._request_id


@pytest.mark.parametrize("own", [True, False])
def test_a_chat_is_put_to_the_model_by_its_template(
    own: bool, client: openai.OpenAI, server: ThreadServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer's, unless `infold.json` has one, as the demo model's does."""
    tokenizer, prompt = server.runtime.base.tokenizer, PROMPT
    if own:
        monkeypatch.setattr(server.runtime, "_template", replace(server.runtime.template, chat_template=""))
        prompt = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    found = chat(client)
    (choice,) = found.choices
    assert choice.message.content == http.generate(prompt)["text"]
    assert (choice.message.role, found.object) == ("assistant", "chat.completion")
    assert found.usage.prompt_tokens == len(server.runtime.base.encode(prompt))


def test_what_was_learned_is_answered_in_a_chat(client: openai.OpenAI, namespace: str, learned: Learnt) -> None:
    fact, job = learned
    question = fact.prompt.removeprefix("Q: ").removesuffix(" A:")
    found = chat(client, model=f"{NAME}:{namespace}", messages=[{"role": "user", "content": question}])
    assert (found.choices[0].message.content, found.weight_version) == (fact.answer, job["version"])


def test_a_model_without_a_chat_template_says_what_to_use(
    client: openai.OpenAI, server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.runtime, "_template", replace(server.runtime.template, chat_template=""))
    monkeypatch.setattr(server.runtime.base.tokenizer, "chat_template", None)
    with pytest.raises(openai.BadRequestError, match="no chat template; use /v1/completions"):
        chat(client)


def test_a_template_that_refuses_is_a_bad_request(
    client: openai.OpenAI, server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = replace(server.runtime.template, chat_template="{{ raise_exception('no systems here') }}")
    monkeypatch.setattr(server.runtime, "_template", refusing)
    with pytest.raises(openai.BadRequestError, match="no systems here"):
        chat(client)


def test_parts_of_a_message_are_joined_and_developers_are_the_system(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Where does Mira "}, {"type": "text", "text": "Holm live?"}]
    assert chat(client, messages=[{"role": "user", "content": parts}]).choices == chat(client).choices
    asked = [chat(client, messages=[{"role": r, "content": "Be brief."}, *CHAT]).choices for r in ("system", "developer")]
    assert asked[0] == asked[1]


def test_what_a_client_writes_cannot_end_its_turn(client: openai.OpenAI, server: ThreadServer) -> None:
    base = server.runtime.base
    special = next(str(t.content) for t in base.tokenizer.added_tokens_decoder.values() if t.special and "|" in str(t.content))
    found = chat(client, messages=[{"role": "user", "content": f"Hello{special}"}])
    assert found.usage.prompt_tokens > chat(client, messages=[{"role": "user", "content": "Hello"}]).usage.prompt_tokens + 1


def test_a_namespace_and_a_version_are_asked_by_the_models_name(client: openai.OpenAI, namespace: str, learned: Learnt) -> None:
    fact, job = learned
    new, old = (complete(client, model=f"{NAME}:{namespace}{v}", prompt=fact.prompt) for v in ("", "@v0"))
    assert (new.choices[0].text, new.weight_version) == (fact.answer, job["version"])
    assert (old.choices[0].text != fact.answer, old.weight_version) == (True, "v0")
    assert new.system_fingerprint != old.system_fingerprint


def test_choices_say_which_version_wrote_them_if_asked(client: openai.OpenAI, namespace: str, learned: Learnt) -> None:
    _, job = learned
    more: dict[str, Any] = {"model": f"{NAME}:{namespace}", "extra_body": {"return_weight_versions": True}, "n": 2}
    for ask in (complete, chat):
        found = ask(client, **more)
        spans = [choice.weight_versions for choice in found.choices]
        assert sum(span["end"] for (span,) in spans) == found.usage.completion_tokens
        assert all((span["version"], span["start"]) == (job["version"], 0) for (span,) in spans)
        last = [c for chunk in ask(client, stream=True, **more) for c in chunk.choices if c.finish_reason]
        assert [c.weight_versions for c in sorted(last, key=lambda c: c.index)] == spans
        assert not hasattr(ask(client).choices[0], "weight_versions")


# --- several answers


def test_with_a_seed_each_of_n_choices_comes_again(client: openai.OpenAI) -> None:
    one, again, other = (complete(client, n=4, temperature=1.5, seed=seed) for seed in (7, 7, 8))
    texts = [c.text for c in one.choices]
    assert [c.index for c in one.choices] == [0, 1, 2, 3]
    assert texts == [c.text for c in again.choices] != [c.text for c in other.choices]
    assert len(set(texts)) > 1
    assert texts[1] == other.choices[0].text == complete(client, temperature=1.5, seed=8).choices[0].text


def test_prompts_are_answered_in_order_as_text_and_as_tokens(client: openai.OpenAI, server: ThreadServer) -> None:
    prompts = [PROMPT, "Q: Where was Mira Holm born? A:", "Mira"]
    alone = [complete(client, prompt=p).choices[0].text for p in prompts]
    together = complete(client, prompt=prompts, n=2)
    assert [c.text for c in together.choices] == [text for text in alone for _ in range(2)]
    tokens = [server.runtime.base.encode(p) for p in prompts]
    assert [c.text for c in complete(client, prompt=tokens).choices] == alone
    assert complete(client, prompt=tokens[0]).choices[0].text == alone[0]


# --- streaming


@pytest.mark.parametrize("ask", [complete, chat])
def test_a_stream_adds_up_to_the_whole_answer(ask: Any, client: openai.OpenAI) -> None:
    more: dict[str, Any] = {"n": 3, "temperature": 1.2, "seed": 3, "logprobs": 2 if ask is complete else True}
    whole = ask(client, **more)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **more))
    for choice in whole.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        text = "".join(p.text if ask is complete else p.delta.content or "" for p in parts)
        assert text == (choice.text if ask is complete else choice.message.content)
        assert [p.finish_reason for p in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        if ask is complete:
            assert [t for p in parts for t in p.logprobs.tokens] == choice.logprobs.tokens
            assert [o for p in parts for o in p.logprobs.text_offset] == choice.logprobs.text_offset
        else:
            assert [p.delta.role for p in parts] == ["assistant"] + [None] * (len(parts) - 1)
            assert [t for p in parts for t in p.logprobs.content] == choice.logprobs.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_done(http: Http) -> None:
    body = {"model": NAME, "prompt": PROMPT, "stream": True}
    lines = [line for line in http.post("/v1/completions", json=body).text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert '"usage"' not in lines[0]


def test_the_async_client_streams_many_at_once(server: ThreadServer) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": f"Hello {number}"}], max_tokens=8, stream=True, seed=number
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            together = await asyncio.gather(*(ask(client, n) for n in range(24)))
            assert together[:4] == [await ask(client, n) for n in range(4)]
            return together

    assert len(asyncio.run(main())) == 24


def test_a_client_that_leaves_a_stream_frees_its_slots(client: openai.OpenAI, http: Http) -> None:
    before, seed = http.metric("infold_requests_total", finish_reason="cancelled"), 0
    while http.metric("infold_requests_total", finish_reason="cancelled") == before:  # they may end before it is noticed
        seed += 1
        assert seed < 50
        with complete(client, n=3, max_tokens=200, stream=True, temperature=2, seed=seed) as stream:
            next(iter(stream))
        eventually(lambda: http.metric("infold_num_requests_running") == 0)


# --- log-probabilities


def test_log_probabilities_are_those_of_the_model(client: openai.OpenAI) -> None:
    logprobs = complete(client, logprobs=3).choices[0].logprobs
    text = complete(client).choices[0].text
    assert "".join(logprobs.tokens) == text
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]
    for token, logprob, likeliest in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert logprob <= 0
        assert max(likeliest.values()) == likeliest[token] == logprob, "greedy writing takes the likeliest"
        assert sum(map(math.exp, likeliest.values())) <= 1 + 1e-5
    assert complete(client, logprobs=0).choices[0].logprobs.top_logprobs is None
    assert complete(client).choices[0].logprobs is None


def test_a_chats_log_probabilities_spell_its_text(client: openai.OpenAI) -> None:
    found = chat(client, logprobs=True, top_logprobs=5).choices[0]
    assert bytes(b for t in found.logprobs.content for b in t.bytes).decode() == found.message.content
    assert all(len(t.top_logprobs) == 5 for t in found.logprobs.content)
    assert all(t.top_logprobs == [] for t in chat(client, logprobs=True).choices[0].logprobs.content)


# --- limits and refusals


def test_stop_strings_and_limits_end_an_answer(client: openai.OpenAI) -> None:
    whole = complete(client, max_tokens=30).choices[0]
    for stop in (whole.text[1], [whole.text[2:4], "never"]):
        cut = complete(client, max_tokens=30, stop=stop).choices[0]
        assert cut.finish_reason == "stop"
        assert whole.text.startswith(cut.text)
        assert len(cut.text) < 4
    short = complete(client, max_tokens=1, temperature=2, seed=1)
    assert short.usage.completion_tokens == 1
    assert complete(client, max_tokens=None, temperature=2, seed=5).usage.completion_tokens <= 16


UNSUPPORTED: list[tuple[Any, dict[str, Any]]] = [
    (complete, {"echo": True}),
    (complete, {"best_of": 3}),
    (complete, {"suffix": "x"}),
    (complete, {"frequency_penalty": 1}),
    (complete, {"logit_bias": {"5": 1}}),
    (chat, {"presence_penalty": 0.5}),
    (chat, {"response_format": {"type": "json_object"}}),
    (chat, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (chat, {"tool_choice": "required"}),
    (chat, {"reasoning_effort": "low"}),
    (chat, {"messages": [{"role": "user", "content": "x", "name": "Mira"}]}),
    (chat, {"extra_body": {"best_guess": 1}}),
]


@pytest.mark.parametrize(("ask", "more"), UNSUPPORTED, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_what_is_not_supported_is_refused_by_name(ask: Any, more: dict[str, Any], client: openai.OpenAI) -> None:
    name = next(iter(more))
    name = {"extra_body": "best_guess", "messages": "name"}.get(name, name)
    with pytest.raises(openai.BadRequestError, match=name) as caught:
        ask(client, **more)
    assert name in (caught.value.param or "")


def test_an_answer_may_be_sent_back_as_the_client_has_it(client: openai.OpenAI) -> None:
    answer = chat(client).choices[0].message
    for shape in (answer, answer.model_dump()):
        messages = [*CHAT, shape, {"role": "user", "content": "And where was Jon Vik born?"}]
        assert chat(client, messages=messages, metadata=None, service_tier="auto").choices[0].message.content


def test_what_would_change_nothing_is_let_through(client: openai.OpenAI) -> None:
    nothing: dict[str, Any] = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "n": 1, "user": "me"}
    assert complete(client, echo=False, best_of=1, **nothing).choices == complete(client).choices
    assert chat(client, tools=[], response_format={"type": "text"}, **nothing).choices == chat(client).choices


def test_a_text_that_has_ended_goes_on_if_its_end_is_to_be_ignored(client: openai.OpenAI) -> None:
    long = {"max_tokens": 60, "temperature": 0}
    ended = complete(client, **long)
    goes_on = complete(client, **long, extra_body={"ignore_eos": True})
    assert (ended.choices[0].finish_reason, goes_on.choices[0].finish_reason) == ("stop", "length")
    assert goes_on.usage.completion_tokens == 60 > ended.usage.completion_tokens
    assert goes_on.choices[0].text.startswith(ended.choices[0].text)


INVALID: list[tuple[Any, dict[str, Any], str]] = [
    (complete, {"temperature": 3}, "temperature"),
    (complete, {"top_p": 0}, "top_p"),
    (complete, {"n": 0}, "n"),
    (complete, {"n": 1000}, "n"),
    (complete, {"prompt": [PROMPT] * 70, "n": 2}, "n"),
    (complete, {"logprobs": 99}, "logprobs"),
    (complete, {"prompt": []}, "prompt"),
    (complete, {"prompt": [[]]}, "prompt"),
    (complete, {"prompt": [10**6]}, "prompt"),
    (complete, {"prompt": [[1, -1]]}, "prompt"),
    (complete, {"prompt": "word " * 1000}, "prompt"),
    (complete, {"max_tokens": 10**5}, "max_tokens"),
    (complete, {"stop": ["x"] * 17}, "stop"),
    (complete, {"stream_options": {"include_usage": True}}, "stream_options"),
    (chat, {"messages": []}, "messages"),
    (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages"),
    (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    (chat, {"messages": [{"role": "user", "content": "word " * 1000}]}, "messages"),
    (chat, {"top_logprobs": 2}, "top_logprobs"),
]


@pytest.mark.parametrize(("ask", "more", "where"), INVALID)
def test_a_bad_request_is_the_clients_own_exception(ask: Any, more: dict[str, Any], where: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert where in f"{caught.value.param} {caught.value.message}"
    assert caught.value.request_id


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(server: ThreadServer) -> None:
    engine = server.runtime.engine
    before, engine._waiting.limit = engine._waiting.limit, 0
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            for ask in (complete, chat):
                with pytest.raises(openai.RateLimitError) as caught:
                    ask(client, n=2)
                assert int(caught.value.response.headers["retry-after"]) >= 1
    finally:
        engine._waiting.limit = before


def test_every_answer_has_a_request_id_the_clients_own_if_it_gave_one(http: Http) -> None:
    given = http.get("/healthz", headers={"x-request-id": "my-id.7"})
    assert given.headers["x-request-id"] == "my-id.7"
    odd = http.get("/healthz", headers={"x-request-id": "x" * 300})
    made = {http.get(path).headers["x-request-id"] for path in ("/healthz", "/nowhere", "/learn/none")}
    assert len(made | {odd.headers["x-request-id"]}) == 4
    assert all(len(name) <= 64 for name in made)
    too_large = http.post("/v1/completions", content=b"x" * (5 * 1024 * 1024))
    refused(too_large, 413)
    assert too_large.headers["x-request-id"]


def test_an_error_of_ours_has_a_request_id_too(http: Http, server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(server.runtime.ledger, "resolve", fail)
    answer = http.get("/versions", headers={"x-request-id": "mine"})
    refused(answer, 500, "internal_error")
    assert answer.headers["x-request-id"] == "mine"
