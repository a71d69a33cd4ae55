"""A model that says nothing and costs what a real one costs: a random Llama, with a tokenizer that was trained on something.

Covered: the 33M-parameter model of the report, a LoRA adapter for it, and the shapes of larger ones.
Not covered: anything that it would say.
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adapters.demo.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, train_tokenizer

CONTEXT, VOCABULARY = 2048, 16_384
_FILES = 400
"""Of Python's own library: text that is on every machine."""


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    tied: bool


SHAPES = {
    "33m": Shape(VOCABULARY, 512, 1376, 8, 8, 8, tied=True),
    "1b": Shape(128_256, 2048, 8192, 16, 32, 8, tied=True),
    "8b": Shape(128_256, 4096, 14_336, 32, 32, 8, tied=False),
}
"""The first is the report's; the others are those of Llama 3."""


def make_random_llama(directory: Path, shape: str = "33m", dtype: str = "float32", device: str = "cpu") -> Path:
    """Write the model and its tokenizer, unless they are there. Returns the directory."""
    if not (directory / "config.json").is_file():
        model, tokenizer = random_llama(shape, dtype, device)
        tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)
    return directory


def random_llama(shape: str, dtype: str, device: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model, with its weights drawn where it is to be, and its tokenizer."""
    sizes = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=sizes.tied,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(EOS),
    )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.get_output_embeddings().weight[VOCABULARY:] = 0  # of what the tokenizer has no words for, so that it is never said
    return model, train_tokenizer(_texts(), VOCABULARY, CONTEXT)


def make_random_adapter(model: Path, into: Path, rank: int = 16) -> Path:
    """Write a LoRA on every linear layer of the blocks, as PEFT does, whose delta is not zero. Returns the directory."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    base = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(base, LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, init_lora_weights=False))
    adapted.save_pretrained(str(into))
    return into


def _texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:_FILES]:
        yield path.read_text(encoding="utf-8", errors="replace")
