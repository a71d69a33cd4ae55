"""A causal LM with its tokenizer: loading, identity, and a second view of it for learning.

Covered: hub ids and local directories, float32 and bfloat16, one device. Not covered: sharding over devices,
quantised weights."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from adapters.errors import ModelNotLoadable


@dataclass(frozen=True)
class BaseModel:
    """The frozen model that everything else starts from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """Hub id or path it was loaded from."""
    digest: str
    """32 hex digits over configuration, vocabulary and all weights: names curvature, scorer and versions."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """Longest sequence, in tokens, that the model was made for."""
        config: Any = self.model.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048)

    @property
    def start(self) -> list[int]:
        """The ids that every text starts with: the beginning-of-sequence token where the model has one."""
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [int(bos)]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        config: Any = self.model.generation_config
        ids = config.eos_token_id if config is not None else None
        found = set(ids if isinstance(ids, list) else [ids]) | {self.tokenizer.eos_token_id}
        return frozenset(int(i) for i in found if i is not None)

    @property
    def pad_id(self) -> int:
        """Fills unused positions; never attended to."""
        return int(self.tokenizer.pad_token_id or 0)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the start token exactly once."""
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        return ids if ids[:1] == self.start and self.start else self.start + ids

    def inert(self, text: str) -> str:
        """`text` with special tokens broken up: a document cannot end a turn or speak for the assistant."""
        special = {str(t.content) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        for token in sorted(special, key=len, reverse=True):
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def load_base_model(source: str, device: str = "cpu", dtype: str = "float32") -> BaseModel:
    """Load a causal LM by hub id or path, frozen, in evaluation mode.

    Raises:
        ModelNotLoadable: nothing loadable is there; the message carries transformers' own reason.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if source.startswith(("/", ".", "~")) and not Path(source).exists():  # transformers would take it for a name on the hub
            reason = "there is no such directory; name one with a config.json, or a model of the hub"
            raise ModelNotLoadable(f"cannot load a causal LM from {source!r}: {reason}") from None
        raise ModelNotLoadable(f"cannot load a causal LM from {source!r}: {error}") from error
    model.to(torch.device(device))  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return BaseModel(model, tokenizer, source, _digest(model, tokenizer))


def learning_view(model: PreTrainedModel, own: tuple[str, ...]) -> PreTrainedModel:
    """A second model that shares every parameter with `model`, but for copies of the target layers `own`.

    It has its own configuration: serving code may set attributes of the shared configuration during a forward pass,
    and a learner that saw them would silently attend in both directions.
    """
    kept = {f"{name}.weight" for name in own}
    shared = [p for name, p in model.named_parameters() if name not in kept] + list(model.buffers())
    view: PreTrainedModel = copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})
    pairs = zip(model.named_parameters(), view.named_parameters(), strict=True)
    assert all(a is b for (name, a), (_, b) in pairs if name not in kept)
    view.eval()  # type: ignore[no-untyped-call]
    return view


def pad_rows(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad token rows. Returns ids (B, T) int64 and attention mask (B, T) int64."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def _digest(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Of content, not of files: a model saved twice, or loaded in a dtype that holds it exactly, keeps its name."""
    digest = hashlib.blake2b(digest_size=16)
    config: Any = model.config
    settings = {k: str(v) for k, v in config.to_dict().items() if not k.startswith(("_", "transformers", "dtype"))}
    digest.update(repr(sorted(settings.items())).encode())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
