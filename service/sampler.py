"""Choose the next token of each row: greedy, or temperature, top-k and top-p with the row's own generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-5
"""Temperatures below this are greedy: dividing by less would overflow."""


@dataclass(frozen=True)
class Sampling:
    """How one request chooses its tokens."""

    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int | None = None


def choose(logits: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> list[int]:
    """Next token of each row. logits: (B, V) float32. A row depends on nothing but its own logits and generator."""
    tokens: list[int] = logits.argmax(-1).tolist()
    for row, (sampling, generator) in enumerate(zip(samplings, generators, strict=True)):
        if sampling.temperature >= COLDEST:
            tokens[row] = _sample(logits[row], sampling, generator)
    return tokens


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0
    before = probabilities.cumsum(-1) - probabilities
    probabilities[1:][before[1:] >= sampling.top_p] = 0  # the likeliest token always stays
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
