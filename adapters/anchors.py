"""Anchors: questions that the base model answers surely, sampled from it once, so that learning can be kept from spoiling them.

Curvature protects old knowledge on average; what a fold destroys is not spread evenly. A new birthplace of Jonas Popov spoils
that of Jonas Petrov first. So the anchors nearest to a lesson are asked again after it, and some are rehearsed with it. These
are SAPT's pseudo-samples (Zhao et al. 2024), found by what they share with the lesson.

Covered: sampling, nearness, files. Not covered: keeping them (`reflection.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from adapters.config import AnchorConfig
from adapters.curvature import Progress
from adapters.memory import Memory, of_answer
from adapters.sampling import continue_rows
from adapters.tensor_file import read_tensors, write_tensors
from adapters.views import View, ViewTemplate, judge_views, parse_views
from adapters.workspace import Workspace

BATCH = 256
"""Questions sampled together."""
BUCKETS = 1024
"""Tokens are counted modulo this."""

LEAST_RARITY = 1e-3


@dataclass(frozen=True)
class Anchors:
    """What the base model knows, as far as it was asked."""

    memories: tuple[Memory, ...]
    digest: str
    """Of the base model."""

    @cached_property
    def _rarity(self) -> Tensor:
        """(BUCKETS,): how much sharing a token says, log of its inverse frequency; something, even of one that all share."""
        return torch.log((1 + len(self.memories)) / (1 + _bags(self.memories).sum(0))) + LEAST_RARITY

    @cached_property
    def _directions(self) -> Tensor:
        """(N, BUCKETS), of norm 1."""
        return torch.nn.functional.normalize(_bags(self.memories) * self._rarity, dim=1)

    def shared(self, one: Memory, other: Memory) -> float:
        """How much of the shorter question the two have in common, in [0, 1]: the share of its tokens, rare ones counting more.

        0 without anchors: nothing tells then which tokens are rare.
        """
        if not self.memories:
            return 0.0
        mine, theirs = _bags([one, other]) * self._rarity
        return float((mine * theirs).sqrt().sum() / torch.minimum(mine.sum(), theirs.sum()).clamp(min=1e-9))

    def nearest(self, memories: Sequence[Memory], count: int) -> list[Memory]:
        """The anchors whose questions share the most rare tokens with one of `memories` (cosine of weighted token sets)."""
        if not memories or not self.memories:
            return []
        asked = torch.nn.functional.normalize(_bags(memories) * self._rarity, dim=1)
        shared = (self._directions @ asked.T).amax(1)
        return [self.memories[i] for i in shared.topk(min(count, len(self.memories))).indices.tolist()]

    def save(self, path: Path) -> None:
        """Write one safetensors file: ids (N, T) int32, padded with -1, and where each answer starts (N,)."""
        longest = max((len(m.ids) for m in self.memories), default=0)
        ids = torch.tensor([[*m.ids, *[-1] * (longest - len(m.ids))] for m in self.memories], dtype=torch.int32)
        starts = torch.tensor([len(m.prompt) for m in self.memories], dtype=torch.int32)
        write_tensors(path, {"ids": ids.view(len(self.memories), longest), "starts": starts}, self.digest)

    @staticmethod
    def load(path: Path, digest: str) -> "Anchors":
        """Read what `save` wrote.

        Raises:
            CorruptCheckpoint: torn, or of another base model.
        """
        tensors = read_tensors(path, digest, "anchors")
        rows = [[i for i in row if i >= 0] for row in tensors["ids"].tolist()]
        found = (of_answer(row[:start], row[start:]) for row, start in zip(rows, tensors["starts"].tolist(), strict=True))
        return Anchors(tuple(found), digest)


def sample_anchors(
    workspace: Workspace, template: ViewTemplate, config: AnchorConfig, sure: float, progress: Progress = lambda _: None
) -> Anchors:
    """Let the base model write questions with their answers, and keep those that it is sure of, each question once.

    sure: least probability of each token of an answer.
    """
    base = workspace.base
    workspace.install(workspace.base_weights)
    generator = torch.Generator(base.device).manual_seed(config.seed)
    start, ends = base.encode(template.view_prefix), base.stop_ids | set(base.start)
    found: dict[str, View] = {}
    for done in range(0, config.samples, BATCH):
        count = min(BATCH, config.samples - done)
        for row in continue_rows(workspace, [start] * count, config.max_new_tokens, [1.0] * count, ends, generator):
            text = base.decode(row)
            for view in parse_views(template, template.view_prefix + text if template.chat else text, finished=False)[:1]:
                found.setdefault(view.question, view)
        progress(min(1.0, (done + BATCH) / config.samples))
    views = list(found.values())
    judged = [j for i in range(0, len(views), BATCH) for j in judge_views(workspace, template, views[i : i + BATCH])]
    good = (view for view, found in zip(views, judged, strict=True) if found.right and found.likely >= sure)
    return Anchors(tuple(of_answer(v.prompt(base, template), v.continuation(base, template)) for v in good), base.digest)


def _bags(memories: Sequence[Memory]) -> Tensor:
    """(N, BUCKETS) float32: which tokens each question holds."""
    bags = torch.zeros(len(memories), BUCKETS)
    for row, memory in enumerate(memories):
        bags[row, [token % BUCKETS for token in set(memory.prompt)]] = 1.0
    return bags
