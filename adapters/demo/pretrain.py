"""Train the demo model from nothing: `python -m adapters.demo.pretrain --out DIR --steps N`.

Covered: tokenizer, architecture, optimisation in two stages, and the directory that ships. Not covered: the
world (`world.py`), the mixtures (`corpus.py`), measuring the result (`evaluate.py`). Seeded; one thread.

The model that ships was made on one core by `--compile` and the defaults, about an hour for both stages.
"""

import argparse
import copy
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from adapters.demo.corpus import POLISH, Corpus, Mixture
from adapters.demo.packing import PackedRows
from adapters.demo.tokenizer import SPECIAL_TOKENS, train_tokenizer

CHAT_AS_VIEWS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ ' A: ' + message['content'] + ' ' }}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' A:' }}{% endif %}"
)
"""So small a model does not carry over to its chats what it learned from questions and answers: chats ask as views do."""
VIEW_SETTINGS = {
    "view_prompt": "News: {document} Q:",
    "view_prefix": "Q:",
    "view_stop": [".", " Q:"],
    "chat_template": CHAT_AS_VIEWS,
}
"""How this model is asked for views of a document, and in chats; written to `infold.json`."""
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Settings:
    """Size of the model and what all stages share; lengths in tokens."""

    seed: int = 0
    vocab_size: int = 1536
    tokenizer_texts: int = 30_000
    hidden_size: int = 192
    intermediate_size: int = 768
    layers: int = 4
    heads: int = 4
    length: int = 256
    rows: int = 8
    final_share: float = 0.01
    """Share of the learning rate that is left at the last step."""
    warmup_steps: int = 200
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    max_gradient_norm: float = 1.0
    report_every: int = 100
    save_every: int = 500
    compile: bool = False
    """Let torch compile the training step: needs a C++ compiler, about a quarter faster."""


@dataclass(frozen=True)
class Stage:
    """One run of the optimiser; `learning_rate` is its peak, `corpus` sets its texts apart from others'."""

    name: str
    steps: int
    learning_rate: float
    mixture: Mixture
    corpus: int


LEARN = Stage("learn", steps=10_000, learning_rate=3e-3, mixture=Mixture(), corpus=1)
POLISHING = Stage("polish", steps=2_000, learning_rate=1e-3, mixture=POLISH, corpus=2)


def make_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """A vocabulary of the world's words. Made-up words are left out: no token may know them."""
    plain = replace(Mixture(), made_up_subject=0.0, made_up_object=0.0)
    texts = itertools.islice(Corpus(settings.seed, plain), settings.tokenizer_texts)
    return train_tokenizer(map(str, texts), settings.vocab_size, settings.length)


def make_model(settings: Settings) -> LlamaForCausalLM:
    """A fresh model of the Llama architecture."""
    torch.manual_seed(settings.seed)
    pad, bos, eos = range(len(SPECIAL_TOKENS))[:3]
    config = LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.length,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    return LlamaForCausalLM(config)


def load(path: Path) -> LlamaForCausalLM:
    """A model that `save` wrote, in float32."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.train()
    return model


def rate_share(settings: Settings, stage: Stage, step: int) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine down to the final share."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, stage.steps - settings.warmup_steps)
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write what ships: bf16 weights, configuration, tokenizer, view settings."""
    shipped = LlamaForCausalLM(copy.deepcopy(model.config)).bfloat16()
    shipped.load_state_dict(model.state_dict())
    shipped.save_pretrained(out)
    (out / WEIGHTS_FILE).chmod(0o644)  # transformers makes it readable by its owner alone
    tokenizer.save_pretrained(out)
    (out / "infold.json").write_text(json.dumps(VIEW_SETTINGS, indent=1) + "\n")


def train_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: tuple[torch.Tensor, torch.Tensor],
    norm: float,
) -> float:
    """One step on ids and labels, each (rows, length); the mean loss per token, in nats."""
    ids, labels = batch
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    optimizer.step()
    return float(loss.detach())


def run_stage(settings: Settings, stage: Stage, model: LlamaForCausalLM, rows: PackedRows, progress: Progress) -> Iterator[int]:
    """Train through one stage; yields the step after every `report_every` of them and after the last."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=stage.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(settings, stage, step))
    task = progress.add_task(stage.name, total=stage.steps, loss=math.nan)
    losses: list[float] = []
    for step in range(1, stage.steps + 1):
        losses.append(train_step(model, optimizer, rows.batch(settings.rows), settings.max_gradient_norm))
        schedule.step()
        if step % settings.report_every == 0 or step == stage.steps:
            mean = sum(losses) / len(losses)
            losses.clear()
            progress.update(task, completed=step, loss=mean)
            progress.log(f"{stage.name} step {step} loss {mean:.4f}")
            yield step


def pretrain(settings: Settings, stages: Sequence[Stage], out: Path, console: Console, start: Path | None) -> None:
    """Train through the stages into `out`; each goes on from the weights that the one before wrote.

    `start` holds the model to begin with (default: a fresh one).
    """
    tokenizer = make_tokenizer(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}"), console=console) as progress:
        for stage in stages:
            model = make_model(settings) if start is None else load(start)
            if settings.compile:
                model.set_attn_implementation("eager")  # compiles to faster code than the fused kernel here
                model.compile()
            rows = PackedRows(Corpus(settings.seed + stage.corpus, stage.mixture), tokenizer, settings.length)
            for step in run_stage(settings, stage, model, rows, progress):
                if step % settings.save_every == 0 or step == stage.steps:
                    save(model, tokenizer, out)
            start = out


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--steps", type=int, default=LEARN.steps, help="steps of the first stage")
    parser.add_argument("--polish-steps", type=int, default=POLISHING.steps, help="steps of the second stage")
    parser.add_argument("--start", type=Path, help="go on from this model; with --steps 0, polish it")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(seed=arguments.seed, compile=arguments.compile)
    stages = (replace(LEARN, steps=arguments.steps), replace(POLISHING, steps=arguments.polish_steps))
    console = Console(width=110)
    console.print(settings)
    pretrain(settings, [s for s in stages if s.steps], arguments.out, console, arguments.start)


if __name__ == "__main__":
    main()
