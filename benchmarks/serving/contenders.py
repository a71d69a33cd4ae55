"""Who is measured on one model: infold, `transformers serve`, vLLM's CPU build, and transformers' own `generate`.

Covered: how each is started, with settings that were seen to serve it well on CPU, asked and paused. Each server brings its own
environment. Not covered: the load (`load.py`), turns and tables (`throughput.py`, `report.py`).
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.serving.load import Endpoint, Load, load
from benchmarks.serving.servers import Command, Cores, Server, usable

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_BLOCK = 32
"""Tokens of one block of the continuous batching manager's cache."""


@dataclass(frozen=True)
class Sample:
    """What one turn showed."""

    tokens_per_second: float
    first: float | None = None
    """Median seconds to the first token."""
    gap: float | None = None
    gap_p99: float | None = None
    """Seconds between tokens, median and 99th percentile."""
    failed: int = 0
    gap_worst: float | None = None

    @staticmethod
    def of(found: Load) -> "Sample":
        """A load, summed up."""
        return Sample(found.tokens_per_second, found.first(0.5), found.gap(0.5), found.gap(0.99), found.failed, found.gap(1.0))


Measure = Callable[[Sequence[str], int, int], Sample]
"""prompts, how many at a time, tokens of each answer -> what was seen."""


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    weights: str
    """base or adapted."""
    measure: Measure
    alone: bool = False
    """It takes one request at a time, however many come."""

    def measured_at(self, concurrencies: Sequence[int]) -> Sequence[int]:
        """Which of them say something about it."""
        return concurrencies[:1] if self.alone else concurrencies


@dataclass(frozen=True)
class Setup:
    """What all of them serve."""

    model: Path
    dtype: str
    streams: int
    """Most at a time."""
    length: int
    """Most tokens of a prompt with its answer."""
    device: str = "cpu"


def infold_server(setup: Setup, data: Path, log: Path) -> Server:
    """infold with a learner inside. The model says nothing, so there is nothing to ask it before it learns, nor to keep."""
    little = {"INFOLD_LEARN__ANCHORS__QUESTIONS": "0", "INFOLD_LEARN__CURVATURE__SAMPLES": "32"}
    little |= {"INFOLD_LEARN__GUARD__KL_STEP": "10", "INFOLD_LEARN__GUARD__KL_TOTAL": "10"}
    flags = ("--dtype", setup.dtype, "--device", setup.device, "--views", "0", "--data-dir", str(data))
    command = (str(Path(sys.executable).with_name("infold")), "serve", str(setup.model), "--port", "{port}", *flags)
    environment = {**little, "INFOLD_SLOTS": str(setup.streams), "INFOLD_CACHE_DIR": str(data / "cache")}
    server = Server(Command("infold", command, environment), log)
    server.wait_until("/readyz", '"learning":true')
    return server


def demo_servers(data: Path, worker: bool, ending: ExitStack, apart: Cores = frozenset()) -> Server:
    """infold with the demo model, which learns inside or in a worker; ready to learn, and ended with `ending`.

    apart: cores that are the worker's alone; none: server and worker share all of them.
    """
    ours, theirs = usable() - apart, apart or usable()
    infold, flags = str(Path(sys.executable).with_name("infold")), ("--data-dir", str(data / "store"))
    learner = ("--learner", "elsewhere" if worker else "inside")
    server = Server(Command("infold", (infold, "serve", "--port", "{port}", *flags, *learner), cores=ours), data / "server.log")
    ending.callback(server.end)
    server.wait_until("/readyz", "ready" if worker else '"learning":true')
    if worker:
        command = Command("infold worker", (infold, "worker", "--metrics-port", "{port}", *flags), cores=theirs)
        learning = Server(command, data / "worker.log")
        ending.callback(learning.end)
        learning.wait_until("/metrics")
    return server


def transformers_server(setup: Setup, environment: Path, log: Path) -> Server:
    """`transformers serve` with continuous batching, with room for all streams and a batch that is not mostly mask."""
    blocks = 2 * setup.streams * -(-setup.length // _BLOCK)
    command = (
        str(environment / "bin/transformers"), "serve", str(setup.model), "--host", "127.0.0.1", "--port", "{port}",
        "--device", setup.device, "--dtype", setup.dtype, "--continuous-batching", "--attn-implementation", "sdpa",
        "--cb-block-size", str(_BLOCK), "--cb-num-blocks", str(max(256, blocks)), "--cb-max-batch-tokens", "512",
        "--log-level", "error", *(["--cb-use-cuda-graph"] if setup.device != "cpu" else []),
    )  # fmt: skip
    server = Server(Command("transformers serve", command, {**_OFFLINE, "HF_HUB_DISABLE_TELEMETRY": "1"}), log)
    server.wait_until("/health")
    return server


def vllm_server(setup: Setup, environment: Path, log: Path, lora: Path | None = None) -> Server:
    """vLLM's CPU build, on all cores; with an adapter, which is then the model `adapted`."""
    preload = [*Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"), environment / "lib/libiomp5.so"]
    adapter = ("--enable-lora", "--max-loras", "1", "--max-lora-rank", "16", "--lora-modules", f"adapted={lora}") if lora else ()
    command = (
        str(environment / "bin/python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(setup.model),
        "--host", "127.0.0.1", "--port", "{port}", "--dtype", setup.dtype,
        "--max-model-len", "2048", "--max-num-seqs", str(setup.streams), "--no-enable-prefix-caching",
        "--disable-log-stats", "--no-enable-log-requests", "--disable-uvicorn-access-log",
        *adapter,
    )  # fmt: skip
    variables = {
        **_OFFLINE,
        "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",  # it compiles
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{len(usable()) - 1}",
        "LD_PRELOAD": ":".join(str(path) for path in preload if path.is_file()),
    }
    server = Server(Command("vLLM" if lora is None else "vLLM, LoRA", command, variables), log)
    server.wait_until("/v1/models")
    return server


def over_http(server: Server, body: Mapping[str, Any]) -> Measure:
    """Streamed completions of a server, all with `body`."""

    def measure(prompts: Sequence[str], concurrency: int, tokens: int) -> Sample:
        endpoint = Endpoint("127.0.0.1", server.port, "/v1/completions", {**body, "max_tokens": tokens, "temperature": 0})
        with server.turn():
            return Sample.of(load(endpoint, prompts, concurrency))

    return measure


ENDLESS: Mapping[str, Any] = {"ignore_eos": True, "stream_options": {"include_usage": True}}
"""For infold and vLLM."""
ENDLESS_TRANSFORMERS: Mapping[str, Any] = {"generation_config": '{"eos_token_id": -1}'}


class Generate:
    """transformers' `generate`, without a server."""

    def __init__(self, setup: Setup) -> None:
        dtype: torch.dtype = getattr(torch, setup.dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(setup.model, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(setup.model, dtype=dtype)
        self._model.to(torch.device(setup.device))  # type: ignore[arg-type]

    def batched(self, prompts: Sequence[str], concurrency: int, tokens: int) -> Sample:
        """Batches of `concurrency` that begin and end together."""
        torch.set_num_threads(len(usable()))
        started = time.perf_counter()
        for first in range(0, len(prompts), concurrency):
            self._write(list(prompts[first : first + concurrency]), tokens)
        return Sample(len(prompts) * tokens / (time.perf_counter() - started))

    def one_by_one(self, prompts: Sequence[str], concurrency: int, tokens: int) -> Sample:
        """As the first thing that one would write."""
        del concurrency
        return self.batched(prompts, 1, tokens)

    def _write(self, prompts: list[str], tokens: int) -> None:
        batch = self._tokenizer(prompts, return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        batch = batch.to(self._model.device)
        self._model.generate(**batch, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
