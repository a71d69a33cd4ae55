"""A model that says nothing and costs what a real one costs: a random Llama, with a tokenizer that was trained on something.

Covered: the 33M-parameter model of the report, and a LoRA adapter for it. Not covered: anything that it would say.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.demo.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, train_tokenizer

CONTEXT, VOCABULARY = 2048, 16_384
_FILES = 400
"""Of Python's own library: text that is on every machine."""


def make_random_llama(directory: Path) -> Path:
    """Write the model and its tokenizer, unless they are there. Returns the directory."""
    if not (directory / "config.json").is_file():
        tokenizer = train_tokenizer(_texts(), VOCABULARY, CONTEXT)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            bos_token_id=SPECIAL_TOKENS.index(BOS),
            eos_token_id=SPECIAL_TOKENS.index(EOS),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)
    return directory


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
