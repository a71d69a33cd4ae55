"""Choose the next token of each row: greedy, or temperature, top-k and top-p with the row's own generator; score it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.generation import Sampling, ScoredToken

COLDEST = 1e-5
"""Temperatures below this are greedy: dividing by less would overflow."""


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


def score(logits: Tensor, token: int, alternatives: int) -> ScoredToken:
    """What the model thought of `token` and of the likeliest tokens. logits: (V,)."""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(alternatives, len(logprobs)))
    return ScoredToken(token, float(logprobs[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))
