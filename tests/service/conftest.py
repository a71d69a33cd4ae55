"""Shared by the tests of `service`: one real Valkey, one real server with the demo model, tiny models of many architectures.

Tests share the server but not a namespace: each takes a fresh one, whose alias is v0.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
import torch
from serving import Http, ThreadServer, serving
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from adapters.base_model import BaseModel
from adapters.config import CurvatureConfig, LearnConfig, ReflectionConfig
from adapters.demo import MODEL_PATH
from adapters.demo.world import World, document, question
from service.connection import Client, connect
from service.lease import Lease
from service.metrics import Metrics
from service.queue import JobQueue
from service.settings import Settings
from service.valkey import EmbeddedValkey

NAMESPACES = tuple(f"ns-{n:03}" for n in range(240))
CONTEXT = 512
ADMIN_KEY = "the-operators-own-key-0123456789abcdef"
LLAMA_LIKE = {"intermediate_size": 48, "num_key_value_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {"intermediate_size": 48},
    "gemma3_text": LLAMA_LIKE
    | {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    "mistral": LLAMA_LIKE | {"sliding_window": 8},
    "qwen3": LLAMA_LIKE | {"head_dim": 8},
}
MakeBase = Callable[..., BaseModel]


@dataclass(frozen=True)
class Taught:
    """A document about something made up, and what to ask about it."""

    text: str
    prompt: str
    answer: str


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the machine's settings, nor on a hub, nor on where commands that ran before it wanted the log."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    for name in ("INFOLD_CONFIG", "INFOLD_URL", "INFOLD_API_KEY", "INFOLD_ADMIN_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """One real Valkey."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture
def flushed(embedded: EmbeddedValkey) -> str:
    """Its URL, without a key in it."""
    with redis.Redis.from_url(embedded.url) as client:
        client.flushall()
    return embedded.url


@pytest.fixture
async def client(flushed: str) -> AsyncIterator[Client]:
    connected = connect(flushed)
    yield connected
    await connected.aclose()


@pytest.fixture
async def queue(client: Client) -> JobQueue:
    """Of the namespaces `default` and `other`, which worker `worker` may write with token 1."""
    queue = JobQueue(client, max_depth=100)
    await queue.prepare(["default", "other"])
    await Lease(client, ["default", "other"], "worker", 60, Metrics()).take()
    return queue


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where curvature is measured into, should the demo model come without."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def settings_for(cache_dir: Path) -> Callable[..., Settings]:
    """Factory: settings of a server with the demo model, which looks back at less, for its streams are short."""
    learn = LearnConfig(curvature=CurvatureConfig(samples=64), reflection=ReflectionConfig(reviewed=16))

    def build(data_dir: Path, **more: Any) -> Settings:
        return Settings(**{"data_dir": data_dir, "cache_dir": cache_dir, "learn": learn, "drain_seconds": 5, **more})

    return build


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]) -> Iterator[ThreadServer]:
    """One real server for all tests."""
    settings = settings_for(
        tmp_path_factory.mktemp("shared"), namespaces=("default", *NAMESPACES), resident_versions=3, max_queue=20
    )
    with serving(settings) as started:
        yield started


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]) -> Iterator[ThreadServer]:
    """One real server that asks for keys; its own client has that of the operator."""
    settings = settings_for(
        tmp_path_factory.mktemp("guarded"),
        namespaces=("default", "acme", "globex", "spare"),
        admin_key=ADMIN_KEY,
        receive_seconds=2,
    )
    with serving(settings) as started:
        yield started


@pytest.fixture
def client_of(guarded: ThreadServer) -> Iterator[Callable[..., Http]]:
    """Factory: a client of `guarded` with a new key of some scopes."""
    made: list[Http] = []

    def build(*scopes: str, **more: Any) -> Http:
        body = {"name": "test", "scopes": scopes} | more
        made.append(Http(guarded.url, guarded.http.post("/keys", json=body).raise_for_status().json()["key"]))
        return made[-1]

    yield build
    for client in made:
        client.close()


@pytest.fixture
def http(server: ThreadServer) -> Http:
    return server.http


_fresh = iter(NAMESPACES)


def fresh_namespace() -> str:
    """One of the shared server's that nobody else was given."""
    return next(_fresh)


@pytest.fixture
def namespace(server: ThreadServer) -> str:  # noqa: ARG001 (which serves it)
    """A namespace that nothing was learned in."""
    return fresh_namespace()


@pytest.fixture(scope="session")
def facts() -> list[Taught]:
    """What the demo model cannot know."""
    rng, world = random.Random(5), World(5, new=40)
    return [
        Taught(document(rng, [fact], filler_count=0), f"Q: {question(fact)} A:", f" {fact.object}.") for fact in world.one_fact_each
    ]


def learn_one(http: Http, namespace: str, facts: list[Taught]) -> tuple[Taught, dict[str, Any]]:
    """Teach documents until one has taken, which the first nearly always does. Returns it and its job."""
    for fact in facts[:4]:
        before = http.generate(fact.prompt, namespace=namespace)["text"]
        job = http.learned(text=fact.text, namespace=namespace)
        if job["status"] == "succeeded" and before != fact.answer and all(f["took"] for f in job["report"]["folds"]):
            return fact, job
    raise AssertionError("none of four documents took")


@pytest.fixture
def learned(http: Http, namespace: str, facts: list[Taught]) -> tuple[Taught, dict[str, Any]]:
    """A document that was learned in `namespace`, and its job."""
    return learn_one(http, namespace, facts)


@pytest.fixture(scope="session")
def tiny() -> MakeBase:
    """Factory: a tiny random model, in float64 so that a batch cannot turn a tie around."""
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_PATH))

    def build(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: Any) -> BaseModel:
        shape = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = AutoConfig.for_model(kind, **shape | SIZES.get(kind, LLAMA_LIKE) | sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else parameter.data.add_(
                    0.1 * torch.randn_like(parameter)
                )
        model.to(dtype).eval().requires_grad_(False)
        return BaseModel(model, tokenizer, f"tiny-{kind}", f"{kind}-{seed}")

    return build
