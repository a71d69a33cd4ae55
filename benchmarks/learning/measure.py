"""What is measured of a method: does it answer, and what did it do to text that it should not have touched.

Covered: closed-book accuracy (greedy, exact), KL from the base model and perplexity on held-out text, the unit F.
Not covered: when to measure (`protocol.py`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.learning.ground import Ground
from benchmarks.learning.streams import Asked

ANSWER_TOKENS = 14
"""More than the longest object of the worlds has."""
ROWS = 64
"""Questions answered together."""
END = "."
"""Of an answer."""


@torch.no_grad()
def written(model: nn.Module, ground: Ground, prompts: Sequence[str], tokens: int = ANSWER_TOKENS) -> list[str]:
    """Greedy continuations up to the first full stop, without it: one forward pass a token and no cache, which is right for any
    module that maps ids to logits. A row that has ended is not run further."""
    return [
        text for start in range(0, len(prompts), ROWS) for text in _continued(model, ground, prompts[start : start + ROWS], tokens)
    ]


def _continued(model: nn.Module, ground: Ground, prompts: Sequence[str], tokens: int) -> list[str]:
    """Of prompts that are run together."""
    base = ground.base
    rows = [base.encode(p) for p in prompts]
    lengths, open_rows = [len(row) for row in rows], list(range(len(rows)))
    texts = [""] * len(rows)
    for _ in range(tokens):
        batch = ground.batch([rows[i] for i in open_rows])
        logits = model(batch.ids, attention_mask=batch.mask).logits
        last = torch.tensor([len(rows[i]) - 1 for i in open_rows])
        for i, token in zip(open_rows, logits[torch.arange(len(open_rows)), last].argmax(-1).tolist(), strict=True):
            rows[i].append(token)
            texts[i] = base.decode(rows[i][lengths[i] :])
        open_rows = [i for i in open_rows if END not in texts[i] and rows[i][-1] not in base.stop_ids]
        if not open_rows:
            break
    return [text.partition(END)[0].strip() for text in texts]


def answers_right(model: nn.Module, ground: Ground, asked: Sequence[Asked], prompt: Callable[[str], str]) -> list[bool]:
    """For each question: is what the model writes, up to the first full stop, the answer?

    Greedy writing goes along the answer while each token of it is the likeliest, so one forward pass decides nearly all; only
    where other tokens may still come to the same text is it written out.
    """
    prompts, answers = [prompt(a.question) for a in asked], [a.answer for a in asked]
    right: list[bool] = []
    for start in range(0, len(asked), ROWS):
        rows = slice(start, start + ROWS)
        foreseen = _foreseen(model, ground, prompts[rows], answers[rows])
        open_rows = [start + i for i, known in enumerate(foreseen) if known is None]
        texts = dict(zip(open_rows, written(model, ground, [prompts[i] for i in open_rows]), strict=True))
        right += [texts[i] == answers[i] if known is None else known for i, known in enumerate(foreseen, start)]
    return right


@torch.no_grad()
def _foreseen(model: nn.Module, ground: Ground, prompts: Sequence[str], answers: Sequence[str]) -> list[bool | None]:
    """Whether greedy writing gives the answer, as far as one forward pass over prompt and answer tells; None: it does not tell."""
    base = ground.base
    starts = [base.encode(p) for p in prompts]
    rows = [base.encode(f"{p} {answer}{END}") for p, answer in zip(prompts, answers, strict=True)]
    batch = ground.batch(rows)
    likeliest = model(batch.ids, attention_mask=batch.mask).logits.argmax(-1).tolist()
    out: list[bool | None] = []
    for start, row, best, answer in zip(starts, rows, likeliest, answers, strict=True):
        first = len(start)
        if row[:first] != start or len(row) - first > ANSWER_TOKENS:
            out.append(None)
            continue
        along = next((i for i in range(first, len(row)) if best[i - 1] != row[i]), len(row) - 1)
        tokens = [*row[first:along], best[along - 1]]
        text = base.decode(tokens)
        if END in text or tokens[-1] in base.stop_ids:
            out.append(text.partition(END)[0].strip() == answer)
        else:
            begun = text.lstrip().rstrip("\ufffd")  # of a character that is not whole yet
            out.append(None if (answer + END).startswith(begun) or begun.rstrip() == answer else False)
    return out


@dataclass(frozen=True)
class Damage:
    """On held-out text."""

    kl: float
    """KL(base || now), nats per token."""
    perplexity: float


class HeldOut:
    """Held-out texts and what the base model made of them."""

    def __init__(self, ground: Ground, texts: Sequence[str]) -> None:
        self._batch = ground.batch([ground.base.encode(text) for text in texts])
        self._before = self._log_probabilities(ground.base.model)

    @torch.no_grad()
    def _log_probabilities(self, model: nn.Module) -> Tensor:
        logits: Tensor = model(self._batch.ids, attention_mask=self._batch.mask).logits
        return logits[:, :-1].float().log_softmax(-1)

    def damage(self, model: nn.Module) -> Damage:
        """Of the model now."""
        now, real = self._log_probabilities(model), self._batch.predicted
        kl = (self._before.exp() * (self._before - now)).sum(-1)
        nll = -now.gather(-1, self._batch.ids[:, 1:, None])[..., 0]
        return Damage(float((kl * real).sum() / real.sum()), math.exp(float((nll * real).sum() / real.sum())))


@torch.no_grad()
def forward_seconds(ground: Ground, document: str) -> float:
    """F: processor seconds of one forward pass over a document; the better of two, for the first has cold caches."""
    batch, seconds = ground.batch([ground.base.encode(document)]), []
    for _ in range(2):
        started = time.process_time()
        ground.base.model(batch.ids, attention_mask=batch.mask, use_cache=False)
        seconds.append(time.process_time() - started)
    return min(seconds)
