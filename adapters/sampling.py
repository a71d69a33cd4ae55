"""Continue texts with the learner's model, a token at a time, giving way to other work between tokens.

Covered: greedy and sampled rows in one batch, rows of unequal length. Not covered: serving (that is an engine's work).
"""

from collections.abc import Collection

import torch
from torch import Tensor

from adapters.workspace import Workspace


@torch.no_grad()
def continue_rows(
    workspace: Workspace,
    rows: list[list[int]],
    max_new_tokens: int,
    temperatures: list[float],
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Return the new ids of each row, without the stop id that ended it.

    temperatures: one per row; 0 is greedy.
    stop_ids: a row ends at any of these.
    generator: what sampled rows draw from; the global one, which a server shares with its requests, if None.
    """
    base, device = workspace.base, workspace.base.device
    longest = max(map(len, rows))
    ids = torch.tensor([[base.pad_id] * (longest - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    heat = torch.tensor(temperatures, device=device)
    live = torch.ones(len(rows), dtype=torch.bool, device=device)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    written: list[Tensor] = []
    cache = None
    for _ in range(max_new_tokens):
        workspace.pace()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = workspace.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache, token = out.past_key_values, _choose(out.logits[:, -1].float(), heat, generator)
        live = live & ~torch.isin(token, stops)
        if not bool(live.any()):
            break
        token = torch.where(live, token, base.pad_id)
        written.append(torch.where(live, token, -1))
        ids, mask = token[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
    columns = torch.stack(written, 1).tolist() if written else [[] for _ in rows]
    return [[i for i in row if i >= 0] for row in columns]


def _choose(logits: Tensor, heat: Tensor, generator: torch.Generator | None) -> Tensor:
    """Next ids (B,) from logits (B, V): the largest where heat is 0, else sampled."""
    greedy = logits.argmax(-1)
    if not bool((heat > 0).any()):
        return greedy
    probabilities = (logits / heat.clamp(min=1e-3)[:, None]).softmax(-1)
    return torch.where(heat > 0, torch.multinomial(probabilities, 1, generator=generator)[:, 0], greedy)
