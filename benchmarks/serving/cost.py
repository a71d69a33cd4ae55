"""`infold bench cost`: what HTTP costs on top of the engine, and what learning costs on top of serving.

Covered: the order of things. Not covered: how each is measured (`per_token.py`, `throughput.py`, `while_learning.py`).
"""

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import Progress

from adapters.base_model import load_base_model
from benchmarks.serving.contenders import ENDLESS, Contender, Setup, demo_servers, infold_server, over_http
from benchmarks.serving.per_token import EngineAlone, Price, prices
from benchmarks.serving.random_llama import make_random_llama
from benchmarks.serving.servers import Cores, Server, confined, usable
from benchmarks.serving.throughput import Prompts, Row, by_turns, gather
from benchmarks.serving.while_learning import Comparison, Teaching

PROMPT_TOKENS, TOKENS = 16, 64
DEMO_TOKENS = 200
"""Of an answer beside learning: long enough that most gaps are between tokens of a running stream."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    streams: tuple[int, ...]
    rounds: int
    seconds: float
    """Of a phase with or without learning."""


@dataclass(frozen=True)
class Cost:
    """All that was measured."""

    command: str
    prices: tuple[Price, ...]
    rows: tuple[Row, ...]
    """The engine alone, and through HTTP."""
    inside: tuple[Comparison, ...]
    """Learning in the server's own process."""
    elsewhere: tuple[Comparison, ...]
    """Learning in a worker."""
    apart: tuple[Comparison, ...]
    """Learning in a worker, the server on one core, and the worker on the others; none on a machine of one core."""
    unconnected: tuple[Comparison, ...]
    """It is another server on those cores that learns, of which this one knows nothing: what sharing a machine costs."""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def measure_cost(plan: Plan, progress: Progress) -> Cost:
    """Measure.

    Raises:
        ServiceError: a server does not start.
    """
    bar = progress.add_task("what a token costs", total=6)
    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = make_random_llama(work / "llama")
        found = tuple(prices(load_base_model(str(model), "cpu", "float32")))
        progress.update(bar, advance=1, description="HTTP over the engine alone")
        rows = _http(plan, model, work)
        progress.update(bar, advance=1, description="learning inside the server")
        inside = _beside(plan, work / "inside")
        progress.update(bar, advance=1, description="learning in a worker")
        elsewhere = _beside(plan, work / "elsewhere", worker=True)
        progress.update(bar, advance=1, description="learning in a worker on cores of its own")
        rest = usable() - {min(usable())}
        apart = _beside(plan, work / "apart", worker=True, apart=rest) if rest else ()
        progress.update(bar, advance=1, description="another server that learns, on cores of its own")
        unconnected = _unconnected(plan, work, rest) if rest else ()
        progress.update(bar, advance=1)
    return Cost(" ".join(["infold", *sys.argv[1:]]), found, rows, inside, elsewhere, apart, unconnected)


def _http(plan: Plan, model: Path, work: Path) -> tuple[Row, ...]:
    """The engine alone and the whole server, by turns."""
    most = max(plan.streams)
    with ExitStack() as ending:
        engine = EngineAlone.serving(model, "float32", most)
        ending.callback(engine.stop)
        server = infold_server(Setup(model, "float32", most, PROMPT_TOKENS + TOKENS), work / "served", work / "served.log")
        ending.callback(server.end)
        name = server.get("/v1/models")["data"][0]["id"]
        server.sleep()
        contenders = [
            Contender("engine alone", "base", engine.measure),
            Contender("through HTTP", "base", over_http(server, {**ENDLESS, "model": name})),
        ]
        return gather(list(by_turns(contenders, Prompts(model, PROMPT_TOKENS), plan.streams, TOKENS, plan.rounds)))


def _beside(plan: Plan, work: Path, worker: bool = False, apart: Cores = frozenset()) -> tuple[Comparison, ...]:
    """The demo model, answering and learning. What asks is on the worker's cores too, if those are `apart`."""
    work.mkdir()
    with ExitStack() as ending:
        server = demo_servers(work, worker, ending, apart)
        if apart:
            ending.enter_context(confined(apart))
        return _compare(plan, server, server)


def _unconnected(plan: Plan, work: Path, apart: Cores) -> tuple[Comparison, ...]:
    """One server answers, another learns on the cores `apart`, where what asks is too."""
    for name in ("answering", "learning"):
        (work / name).mkdir()
    with ExitStack() as ending:
        answering = demo_servers(work / "answering", False, ending, apart)
        learning = demo_servers(work / "learning", False, ending, usable() - apart)
        ending.enter_context(confined(apart))
        return _compare(plan, answering, learning)


def _compare(plan: Plan, answering: Server, learning: Server) -> tuple[Comparison, ...]:
    model = answering.get("/v1/models")["data"][0]["id"]
    teaching = Teaching(answering.url, model, DEMO_TOKENS, plan.seconds, taught=learning.url)
    teaching.phase(1, True)  # the first of everything takes longer
    return tuple(teaching.compare(streams, plan.rounds) for streams in plan.streams)
