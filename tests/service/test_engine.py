"""The decoding thread: its tokens are those of `generate`, whoever else is running, and it outlives whatever fails."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import eventually

from adapters.base_model import BaseModel, learning_view
from adapters.targets import find_targets
from adapters.versioned_linear import BASE, VersionTable
from service.engine import Engine, Limits
from service.errors import InvalidRequest, NotReady, QueueFull
from service.generation import Piece, Sampling, Wanted
from service.metrics import Metrics
from service.turns import Turns

pytestmark = pytest.mark.anyio
MakeBase = Callable[..., BaseModel]
Asked = tuple[Wanted, str, Callable[[], None]]
ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "opt", "gemma3_text", "mistral", "qwen3"]


@dataclass
class Bench:
    """An engine over one model, and what it did."""

    base: BaseModel
    slots: int = 8
    max_waiting: int = 64
    prefix_bytes: int = 0
    read_seconds: float = 0.05
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics, self.turns = Metrics(), Turns()
        targets = find_targets(self.base.model)
        self.weights = {name: self.base.model.get_submodule(name).weight.detach() for name in targets.names}
        self.conv = self.base.model.config.model_type == "gpt2"
        self.view = learning_view(self.base.model, targets.names)
        self.table = VersionTable(self.base.model, targets)
        limits = Limits(self.slots, self.max_waiting, self.prefix_bytes, self.read_seconds)
        self.engine = Engine(self.base, self.table, self.turns, self.metrics, limits)
        self.engine.start()
        self._asked = 0

    def prompt(self, length: int, seed: int = 0) -> tuple[int, ...]:
        drawn = torch.randint(3, self.base.model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
        return tuple(drawn.tolist())

    def request(
        self, prompt: Sequence[int], tokens: int, version: str = BASE, stop: Sequence[str] = (), sampling: Sampling | None = None
    ) -> Asked:
        self._asked += 1
        number = self._asked
        wanted = Wanted("default", tuple(prompt), tokens, sampling or Sampling(), tuple(stop))
        return wanted, version, lambda: self.ended.append(number)

    async def text(self, request: Asked) -> Piece:
        """All pieces in one."""
        pieces = [piece async for piece in self.engine.generate(*request)]
        assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
        return Piece("".join(p.text for p in pieces), pieces[-1].tokens, pieces[-1].finish_reason)

    def expected(self, prompt: Sequence[int], tokens: int, version: str = BASE) -> Piece:
        """What transformers' own `generate` says, on one version, with nobody else running."""
        self.table.route([version])
        with torch.inference_mode():
            out = self.base.model.generate(
                torch.tensor([list(prompt)]), do_sample=False, max_new_tokens=tokens, pad_token_id=0, use_cache=False
            )
        new = out[0, len(prompt) :].tolist()
        ended = new[-1] in self.base.stop_ids
        return Piece(self.base.decode(new), len(new), "stop" if ended else "length")

    def install(self, name: str, seed: int) -> None:
        """A version that answers otherwise."""
        generator = torch.Generator().manual_seed(seed)
        changed = {}
        for layer, weight in self.weights.items():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            changed[layer] = (weight + 0.5 * noise).T if self.conv else weight + 0.5 * noise
        self.table.install(name, changed)

    def gauge(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    @property
    def idle(self) -> bool:
        return not self.engine._busy


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(base: BaseModel, **sizes: float) -> Bench:
        made.append(Bench(base, **sizes))
        return made[-1]

    yield build
    for bench in made:
        bench.engine.stop(0)


@pytest.fixture
def bench(make_bench: Callable[..., Bench], tiny: MakeBase) -> Bench:
    return make_bench(tiny("llama"))


Shape = tuple[int, int, int]
"""Length of the prompt, tokens asked for, and after how many tokens written by all the request comes."""


async def answers(bench: Bench, shapes: Sequence[Shape]) -> list[Piece]:
    """What requests of these shapes are answered that come while others run."""

    async def one(seed: int, length: int, tokens: int, after: int) -> Piece:
        while bench.gauge("infold_generation_tokens_total") < after and not bench.idle:
            await asyncio.sleep(0.001)
        return await bench.text(bench.request(bench.prompt(length, seed), tokens))

    return await asyncio.wait_for(asyncio.gather(*(one(seed, *shape) for seed, shape in enumerate(shapes))), 60)


def answers_alone(bench: Bench, shapes: Sequence[Shape]) -> list[Piece]:
    return [bench.expected(bench.prompt(length, seed), tokens) for seed, (length, tokens, _) in enumerate(shapes)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
async def test_the_tokens_are_those_of_generate_however_requests_join_and_leave(
    kind: str, make_bench: Callable[..., Bench], tiny: MakeBase
) -> None:
    bench = make_bench(tiny(kind), slots=4)
    shapes = [(3, 20, 0), (40, 5, 3), (1, 30, 6), (17, 12, 10), (25, 3, 12), (2, 25, 30)]
    expected = answers_alone(bench, shapes)
    assert await answers(bench, shapes) == expected
    assert sorted(bench.ended) == list(range(1, len(shapes) + 1))


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 25), st.integers(0, 40)), min_size=1, max_size=6))
def test_no_request_changes_another(tiny: MakeBase, shapes: list[Shape]) -> None:
    bench = Bench(tiny("llama"), slots=3)
    expected = answers_alone(bench, shapes)
    try:
        assert asyncio.run(answers(bench, shapes)) == expected
    finally:
        bench.engine.stop(0)


async def test_a_long_answer_outgrows_the_first_buffer(bench: Bench) -> None:
    prompt = bench.prompt(60)
    expected = bench.expected(prompt, 440)
    found, *_ = await asyncio.gather(
        bench.text(bench.request(prompt, 440)), *(bench.text(bench.request(bench.prompt(n, n), 30)) for n in (2, 90))
    )
    assert found == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
async def test_requests_on_several_versions_in_one_batch_answer_as_they_do_alone(
    kind: str, make_bench: Callable[..., Bench], tiny: MakeBase
) -> None:
    bench = make_bench(tiny(kind))
    bench.install("one", 1)
    bench.install("other", 2)
    asked = [(bench.prompt(5 + n, n), 15, version) for n, version in enumerate([BASE, "one", "other", "one", BASE, "other"])]
    expected = [bench.expected(*ask) for ask in asked]
    found = await asyncio.gather(*(bench.text(bench.request(*ask)) for ask in asked))
    assert list(found) == expected
    assert bench.expected(asked[0][0], 15, "one") != expected[0]


async def test_more_requests_than_slots_all_get_their_turn(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=3)
    prompts = [bench.prompt(3 + n % 5, n) for n in range(40)]
    expected = [bench.expected(prompt, 6) for prompt in prompts]
    found = await asyncio.gather(*(bench.text(bench.request(prompt, 6)) for prompt in prompts))
    assert list(found) == expected
    assert len(bench.ended) == 40


async def test_more_than_may_wait_are_refused_and_give_their_version_back(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=1, max_waiting=2)
    with bench.turns.learning():  # nothing is decoded meanwhile
        calls = [asyncio.create_task(bench.text(bench.request(bench.prompt(3), 4))) for _ in range(8)]
        await asyncio.sleep(0)
        while len([c for c in calls if c.done()]) < 4:
            await asyncio.sleep(0.001)
    found = await asyncio.gather(*calls, return_exceptions=True)
    refused = [f for f in found if isinstance(f, QueueFull)]
    assert len(refused) >= 4
    assert all(f.retry_after for f in refused)
    assert len(bench.ended) == 8


async def test_a_prompt_and_answer_that_do_not_fit_are_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="context"):
        await bench.text(bench.request(bench.prompt(bench.base.context - 3), 4))
    assert bench.ended == [1]
    fits = await bench.text(bench.request(bench.prompt(bench.base.context - 3), 3))
    assert fits.tokens <= 3


async def test_a_seed_makes_a_sampled_answer_the_same_whoever_else_is_running(bench: Bench) -> None:
    def ask(seed: int) -> Asked:
        return bench.request(bench.prompt(4), 12, sampling=Sampling(temperature=3.0, seed=seed))

    alone = await bench.text(ask(7))
    beside = await asyncio.gather(bench.text(ask(7)), bench.text(ask(8)), bench.text(bench.request(bench.prompt(9), 9)))
    assert beside[0] == alone != beside[1]


async def test_a_stop_string_ends_the_request_and_does_not_appear(bench: Bench) -> None:
    prompt = bench.prompt(6, 3)
    whole = bench.expected(prompt, 30).text
    stop = whole[len(whole) // 2 :][:3]
    found = await bench.text(bench.request(prompt, 30, stop=[stop]))
    assert found.finish_reason == "stop"
    assert found.text == whole[: whole.index(stop)]
    assert found.tokens < 30


async def test_a_request_that_is_left_gets_no_more_work_and_gives_its_version_back(bench: Bench) -> None:
    left = bench.engine.generate(*bench.request(bench.prompt(3), 400))
    await anext(left)
    await left.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(eventually, lambda: bench.idle and bench.gauge("infold_num_requests_running") == 0)
    assert bench.ended == [1]
    assert bench.gauge("infold_generation_tokens_total") < 400
    assert bench.metrics.registry.get_sample_value("infold_requests_total", {"finish_reason": "cancelled"}) == 1


async def test_a_request_that_is_left_while_it_waits_is_never_begun(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=1)
    with bench.turns.learning():
        tasks = [asyncio.create_task(bench.text(bench.request(bench.prompt(3), 2))) for _ in range(3)]
        while len(bench.engine._waiting) < 2:
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
    await asyncio.gather(*tasks[:2])
    await asyncio.to_thread(eventually, lambda: sorted(bench.ended) == [1, 2, 3])
    assert bench.gauge("infold_prompt_tokens_total") == 6


async def test_what_was_read_is_not_read_again_and_changes_no_answer(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), prefix_bytes=10**8)
    bench.install("new", 5)
    begun = bench.prompt(40)
    for ending in (3, 4):
        for version in (BASE, "new"):
            prompt = (*begun, *bench.prompt(ending, ending))
            assert await bench.text(bench.request(prompt, 20, version)) == bench.expected(prompt, 20, version)
    assert bench.gauge("infold_prefix_cache_hit_tokens_total") == 2 * 32  # of each version the second


async def test_a_conversation_that_goes_on_is_read_from_where_it_stopped(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), prefix_bytes=10**8)
    prompt = bench.prompt(20)
    bench.table.route([BASE])
    with torch.inference_mode():
        written = bench.base.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=30, pad_token_id=0)
    answer = written[0, 20:].tolist()
    await bench.text(bench.request(prompt, 30))
    longer = (*prompt, *answer, *bench.prompt(5, 9))
    assert await bench.text(bench.request(longer, 9)) == bench.expected(longer, 9)
    assert bench.gauge("infold_prefix_cache_hit_tokens_total") == (20 + len(answer) - 1) // 16 * 16


async def test_running_requests_go_on_while_a_long_prompt_is_read(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), read_seconds=1e-9)
    shapes: list[tuple[int, ...]] = []
    short, long = bench.prompt(3), bench.prompt(300, 1)
    expected = [bench.expected(short, 400), bench.expected(long, 5)]
    with bench.base.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape))):
        running = asyncio.create_task(bench.text(bench.request(short, 400)))
        while not bench.engine._running:
            await asyncio.sleep(0.001)
        assert await bench.text(bench.request(long, 5)) == expected[1]
        assert await running == expected[0]
    assert max(size for _, size in shapes) == 3
    assert expected[0].tokens < 300 or shapes.count((1, 1)) >= 600  # a column and a token by turns


async def test_a_prompt_that_nobody_waits_for_any_more_is_not_read_on(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=2, read_seconds=1e-9)
    running = asyncio.create_task(bench.text(bench.request(bench.prompt(3), 450)))
    while not bench.engine._running:
        await asyncio.sleep(0.001)
    left = asyncio.create_task(bench.text(bench.request(bench.prompt(450, 1), 5)))
    while not bench.engine._joining:
        await asyncio.sleep(0.001)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await asyncio.to_thread(eventually, lambda: 2 in bench.ended)
    assert 1 not in bench.ended
    await running


async def test_a_namespace_that_sends_many_does_not_keep_another_waiting(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=1)
    crowd, late = [bench.request(bench.prompt(3), 6) for _ in range(8)], bench.request(bench.prompt(3), 6)
    with bench.turns.learning():
        tasks = [asyncio.create_task(bench.text(one)) for one in crowd]
        while len(bench.engine._waiting) < 7:
            await asyncio.sleep(0.001)
        tasks.append(asyncio.create_task(bench.text((replace(late[0], namespace="other"), *late[1:]))))
        while len(bench.engine._waiting) < 8:
            await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert bench.ended.index(9) == 1


class Fault(RuntimeError):
    pass


def fail_once(base: BaseModel, when: Callable[[torch.Tensor], bool]) -> None:
    """The next forward pass over such ids fails."""

    def hook(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if when(args[0]):
            handle.remove()
            raise Fault

    handle = base.model.register_forward_pre_hook(hook)


@pytest.mark.parametrize("stage", ["prefill", "decode"])
async def test_a_step_that_fails_ends_its_requests_and_the_next_succeed(bench: Bench, stage: str) -> None:
    prompt = bench.prompt(5)
    expected = bench.expected(prompt, 8)
    fail_once(bench.base, lambda ids: (ids.shape[1] > 1) == (stage == "prefill"))
    found = await asyncio.wait_for(bench.text(bench.request(prompt, 8)), 20)
    assert found.finish_reason == "error"
    assert bench.ended == [1]
    await asyncio.to_thread(eventually, lambda: bench.gauge("infold_num_requests_running") == 0)
    assert await bench.text(bench.request(prompt, 8)) == expected


async def test_a_step_that_fails_does_not_end_requests_that_were_waiting(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"), slots=1)
    fail_once(bench.base, lambda ids: ids.shape[1] == 1)
    prompts = [bench.prompt(4, seed) for seed in (1, 2)]
    found = await asyncio.gather(*(bench.text(bench.request(prompt, 6)) for prompt in prompts))
    expected = bench.expected(prompts[1], 6)
    assert [f.finish_reason for f in found] == ["error", expected.finish_reason]
    assert found[1] == expected


async def test_stopping_lets_running_requests_end(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"))
    running = asyncio.create_task(bench.text(bench.request(bench.prompt(3), 60)))
    while not bench.engine._running:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(bench.engine.stop, 30)
    assert (await running).finish_reason in ("stop", "length")


async def test_stopping_without_patience_ends_them_and_refuses_new_ones(make_bench: Callable[..., Bench], tiny: MakeBase) -> None:
    bench = make_bench(tiny("llama"))
    running = asyncio.create_task(bench.text(bench.request(bench.prompt(3), 400)))
    while not bench.engine._running:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(bench.engine.stop, 0)
    assert (await running).finish_reason in ("cancelled", "stop", "length")
    assert not bench.engine.alive
    with pytest.raises(NotReady):
        await bench.text(bench.request(bench.prompt(3), 4))
    assert sorted(bench.ended) == [1, 2]


def test_an_engine_that_never_started_can_be_stopped(tiny: MakeBase) -> None:
    base = tiny("llama")
    table = VersionTable(base.model, find_targets(base.model))
    Engine(base, table, Turns(), Metrics(), Limits(2, 2)).stop(0)


@pytest.mark.parametrize("divided", [False, True])
async def test_decoding_and_learning_both_go_on(divided: bool, bench: Bench) -> None:
    if divided:
        bench.turns.divide(1)
    quanta, stop = [0], threading.Event()

    def learn() -> None:
        while not stop.is_set():
            with bench.turns.learning():
                for _ in range(20):
                    bench.turns.pace()
                    quanta[0] += 1

    def learn_in_earnest() -> None:
        """Forward and backward passes over the shared parameters."""
        ids = torch.tensor([bench.prompt(20, 7)] * 3)
        while not stop.is_set():
            with bench.turns.learning():
                embedded = bench.view.get_input_embeddings()(ids).detach().requires_grad_()
                bench.turns.pace()
                found = bench.view(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
                found.hidden_states[-1].sum().backward()
                quanta[0] += 1

    learner = threading.Thread(target=learn_in_earnest if divided else learn)
    learner.start()
    try:
        prompt = bench.prompt(5)
        found = await asyncio.wait_for(bench.text(bench.request(prompt, 60)), 60)
    finally:
        stop.set()
        learner.join(30)
    assert found == bench.expected(prompt, 60)
    assert quanta[0] >= (2 if divided else 20)
    assert bench.gauge("infold_decode_stall_seconds_count") >= found.tokens
