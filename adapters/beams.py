"""Different texts, sampled without replacement: stochastic beam search (Kool, van Hoof, Welling 2019).

What a model knows well it says again and again: of 256 samples, soon all but a few have been seen. The k texts with the largest
Gumbel-perturbed log-probabilities are an exact sample of k different ones, and since a text's largest descendant is as large as
itself, a beam of k rows finds them in one pass.

Covered: the search, in float64, in chunks that bound memory by the vocabulary. Not covered: key/value caches (rows change places).
"""

import heapq
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adapters.curvature import Progress
from adapters.workspace import Workspace

ROWS = 256
"""Run together."""


@torch.no_grad()
def sample_different(
    workspace: Workspace,
    start: Sequence[int],
    count: int,
    max_new_tokens: int,
    ended: Callable[[Sequence[int]], bool],
    generator: torch.Generator,
    progress: Progress = lambda _: None,
) -> list[list[int]]:
    """Up to `count` different continuations of `start`, at temperature 1 and the weights installed.

    Texts that do not end are dropped.

    ended: whether what was written so far is a whole text.
    """
    open_rows: list[tuple[float, float, list[int]]] = [(0.0, 0.0, [])]  # perturbed and plain log-probability, ids
    whole: list[tuple[float, list[int]]] = []
    for length in range(max_new_tokens):
        grown = _grow(workspace, list(start), open_rows, count, generator)
        whole += [(height, ids) for height, _, ids in grown if ended(ids)]
        open_rows = [row for row in grown if not ended(row[2])]
        least = heapq.nlargest(count, [h for h, *_ in whole] + [h for h, *_ in open_rows])[-1]
        whole = [row for row in whole if row[0] >= least]
        open_rows = [row for row in open_rows if row[0] >= least]
        progress((length + 1) / max_new_tokens)
        if not open_rows:
            break
    return [ids for _, ids in sorted(whole, reverse=True)]


def _grow(
    workspace: Workspace, start: list[int], rows: list[tuple[float, float, list[int]]], count: int, generator: torch.Generator
) -> list[tuple[float, float, list[int]]]:
    """The `count` largest of all rows that are one token longer."""
    best = torch.empty(0, dtype=torch.float64)
    plain, parents, tokens = best, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    for first in range(0, len(rows), ROWS):
        chunk = rows[first : first + ROWS]
        logp = workspace.next_logits([start + ids for _, _, ids in chunk]).double().log_softmax(-1).cpu()
        logp = logp + torch.tensor([[p] for _, p, _ in chunk], dtype=torch.float64)
        heights = _perturbed(logp, torch.tensor([[h] for h, _, _ in chunk], dtype=torch.float64), generator).flatten()
        top = heights.topk(min(count, len(heights))).indices
        best, plain = torch.cat([best, heights[top]]), torch.cat([plain, logp.flatten()[top]])
        parents, tokens = torch.cat([parents, first + top // logp.shape[1]]), torch.cat([tokens, top % logp.shape[1]])
        kept = best.topk(min(count, len(best))).indices
        best, plain, parents, tokens = best[kept], plain[kept], parents[kept], tokens[kept]
    columns = zip(best.tolist(), plain.tolist(), parents.tolist(), tokens.tolist(), strict=True)
    return [(height, p, [*rows[parent][2], token]) for height, p, parent, token in columns if p > -torch.inf]


def _perturbed(logp: Tensor, largest: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel variables with locations `logp` (B, V), given that the largest of each row is `largest` (B, 1)."""
    uniform = torch.rand(logp.shape, dtype=torch.float64, generator=generator).clamp(min=1e-300)
    free = logp - (-uniform.log()).log()
    shifted = largest - free + torch.log(-torch.expm1(free - free.amax(-1, keepdim=True)))
    return largest - shifted.clamp(min=0) - torch.log1p(torch.exp(-shifted.abs()))
