"""Shared by the tests of `adapters`: tiny models of every architecture, built in the test, never downloaded.

Random weights are drawn wider than transformers draws them, and biases are not zero, so that nothing is right by accident.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from adapters.base_model import BaseModel, pad_rows
from adapters.config import CurvatureConfig, TargetConfig
from adapters.curvature import Curvature, measure_curvature
from adapters.fold import Lesson
from adapters.targets import find_targets
from adapters.views import ViewTemplate
from adapters.workspace import Workspace, token_nll, unpaced

HIDDEN, LAYERS, INNER, CONTEXT = 32, 3, 48, 256
NAMES = ["Mira Holm", "Zelkan Ottimar", "Anna Berg", "Tomas Reed", "Lucie Martin", "Jon Vik"]
PLACES = ["Oslo", "Bergen", "Lund", "Graz", "Turin", "Lyon", "Porto", "Ghent"]
NEWS = "News: {document} Q:"
FACT = "{name} was born in {place}."
PAIR = " Where was {name} born? A: {place}."

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
MakeBase = Callable[..., BaseModel]
MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
MakeLesson = Callable[..., Lesson]

LLAMA_LIKE = {"intermediate_size": INNER, "num_key_value_heads": 2}
GEMMA_LIKE = LLAMA_LIKE | {"head_dim": 8, "sliding_window": 8}
SIZES: dict[str, dict[str, Any]] = {
    "gemma": GEMMA_LIKE,
    "gemma2": GEMMA_LIKE,
    "gemma3_text": GEMMA_LIKE | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "qwen3": LLAMA_LIKE | {"head_dim": 8},
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT, "n_inner": INNER},
    "opt": {"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN},
    "gpt_neox": {"intermediate_size": INNER},
    "phi": {"intermediate_size": INNER, "num_key_value_heads": 4},
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Tests run in random order: none may depend on what another drew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Factory of byte-level BPE tokenizers; `bos=False`: as Qwen's, which have no start token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>", "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"News: {FACT} Q:{PAIR}".format(name=name, place=place) for name in NAMES for place in PLACES]
    bpe.train_from_iterator(texts * 2, trainer)
    written = bpe.to_str()

    def build(bos: bool = True, chat_template: str | None = None) -> PreTrainedTokenizerFast:
        special = {"bos_token": "<s>"} if bos else {}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(written), pad_token="<pad>", eos_token="</s>", **special
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return build


def _build(tokenizer: PreTrainedTokenizerFast, kind: str, seed: int, dtype: torch.dtype, sizes: dict[str, Any]) -> BaseModel:
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(kind, **shape | SIZES.get(kind, LLAMA_LIKE) | sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings().weight if not config.tie_word_embeddings else None
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=1.0 if parameter is head else 0.2)
            else:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.to(dtype).eval().requires_grad_(False)
    return BaseModel(model, tokenizer, f"tiny-{kind}", f"{kind}-{seed}")


@pytest.fixture(scope="session")
def make_base(make_tokenizer: MakeTokenizer) -> MakeBase:
    """Factory: a tiny random base model of any architecture of the table."""

    def build(
        kind: str = "llama", *, bos: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any
    ) -> BaseModel:
        return _build(make_tokenizer(bos), kind, seed, dtype, sizes)

    return build


@pytest.fixture
def base(make_base: MakeBase) -> BaseModel:
    return make_base()


@pytest.fixture(scope="session")
def make_workspace(make_base: MakeBase) -> MakeWorkspace:
    """Factory: the workspace of a base model, or of a fresh tiny one."""

    def build(base: str | BaseModel = "llama", last_layers: int | None = 99, pace: Any = unpaced, **sizes: Any) -> Workspace:
        base = make_base(base, **sizes) if isinstance(base, str) else base
        return Workspace(base, find_targets(base.model, TargetConfig(last_layers)), pace)

    return build


@pytest.fixture
def workspace(make_workspace: MakeWorkspace) -> Workspace:
    return make_workspace()


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Curvature of little text, the same each time, and measured once of the same weights."""
    measured: dict[tuple[Any, ...], Curvature] = {}

    def run(workspace: Workspace) -> Curvature:
        model = workspace.base.model
        weights = hashlib.sha256(b"".join(p.contiguous().view(torch.uint8).numpy().tobytes() for p in model.parameters()))
        key = (str(model.config), weights.hexdigest(), workspace.targets.names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if key not in measured:
                measured[key] = measure_curvature(workspace, CurvatureConfig(samples=48, length=12, batch=24, held_out=8))
        return measured[key]

    return run


@pytest.fixture(scope="session")
def make_lesson() -> MakeLesson:
    """Factory: one text whose end, the answer, is required, with full weight there and none elsewhere."""

    def build(workspace: Workspace, prompt: str, answer: str) -> Lesson:
        start, end = workspace.base.encode(prompt), workspace.base.tokenizer.encode(answer, add_special_tokens=False)
        batch = workspace.batch([start + end])
        required = torch.zeros(1, batch.ids.shape[1] - 1, dtype=torch.bool)
        required[0, len(start) - 1 :] = True
        return Lesson(batch, required.float(), required)

    return build


@pytest.fixture(scope="session")
def template() -> ViewTemplate:
    """How `reader` is asked for views."""
    return ViewTemplate(NEWS, view_stop=(".", " Q:"))


@pytest.fixture(scope="session")
def reader(make_tokenizer: MakeTokenizer) -> BaseModel:
    """A tiny model trained for seconds to write views of the documents of `make_document`, and to copy what it reads."""
    tokenizer = make_tokenizer()
    base = _build(tokenizer, "llama", 0, torch.float32, {"hidden_size": 64, "initializer_range": 0.02})
    model, drawn = base.model, random.Random(0)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
        for _ in range(250):
            rows = [[*base.encode(_reading(drawn)), tokenizer.eos_token_id] for _ in range(16)]
            ids, mask = pad_rows(rows, 0, base.device)
            loss = (token_nll(model(ids, attention_mask=mask).logits, ids) * mask[:, 1:]).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.requires_grad_(False)
    return base


def _reading(drawn: random.Random) -> str:
    known = {"name": drawn.choice(NAMES), "place": drawn.choice(PLACES)}
    return NEWS.format(document=FACT.format(**known)) + PAIR.format(**known)
