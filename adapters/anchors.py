"""Anchors: questions that the base model answers surely, sampled from it once, so that learning can be kept from spoiling them.

Curvature protects old knowledge on average; what a fold destroys is not spread evenly. A new birthplace of Jonas Popov spoils
that of Jonas Petrov first. So the anchors nearest to a lesson are rehearsed with it, and more are asked again before the next.
These are SAPT's pseudo-samples (Zhao et al. 2024), found by what they share with the lesson.

Covered: sampling, files. Not covered: what is near (`nearness.py`), keeping them (`reflection.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from adapters.beams import sample_different
from adapters.config import AnchorConfig
from adapters.curvature import Progress
from adapters.memory import Memory, of_answer
from adapters.nearness import Nearness
from adapters.sampling import continue_rows
from adapters.tensor_file import read_tensors, write_tensors
from adapters.views import View, ViewTemplate, judge_views, parse_views
from adapters.workspace import Workspace

BATCH = 256
"""Questions answered together."""
TAIL = 8
"""Tokens in which the end of a question is looked for."""


@dataclass(frozen=True)
class Anchors:
    """What the base model knows, as far as it was asked."""

    memories: tuple[Memory, ...]
    digest: str
    """Of the base model."""

    @cached_property
    def length(self) -> float:
        """Tokens of one on average; 0 if there are none."""
        return sum(len(m.ids) for m in self.memories) / max(1, len(self.memories))

    @cached_property
    def _nearness(self) -> Nearness:
        return Nearness(self.memories)

    def same_subject(self, one: Memory, other: Memory) -> bool:
        """Whether two questions may ask about the same; never without anchors: nothing tells then which tokens are rare."""
        return bool(self.memories) and self._nearness.same_subject(one, other)

    def nearest(self, asked: Sequence[Memory], count: int, among: Sequence[Memory] | None = None) -> list[Memory]:
        """Those of `among` (default: the anchors) whose questions share most rare tokens with one of `asked`, nearest first."""
        return self._nearness.nearest(asked, count, self.memories if among is None else among)

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
    workspace: Workspace, template: ViewTemplate, config: AnchorConfig, progress: Progress = lambda _: None
) -> Anchors:
    """Let the base model write different questions, and keep with its answer each that it is sure of."""
    workspace.install(workspace.base_weights)
    questions = _questions(workspace, template, config, lambda share: progress(0.7 * share))
    found: list[Memory] = []
    for done in range(0, len(questions), BATCH):
        views = _answered(workspace, template, questions[done : done + BATCH], config)
        judged = judge_views(workspace, template, views)
        good = [view for view, judgement in zip(views, judged, strict=True) if judgement.right and judgement.likely >= config.sure]
        found += [of_answer(v.prompt(workspace.base, template), v.continuation(workspace.base, template)) for v in good]
        progress(0.7 + 0.3 * min(1.0, (done + BATCH) / len(questions)))
    return Anchors(tuple(found), workspace.base.digest)


def _questions(workspace: Workspace, template: ViewTemplate, config: AnchorConfig, progress: Progress) -> list[str]:
    """Different questions that the base model asks, short ones first, so that those run together are about as long."""
    base = workspace.base
    ends = (template.view_answer, *template.view_stop)

    def ended(ids: Sequence[int]) -> bool:
        return ids[-1] in base.stop_ids or any(end in base.decode(list(ids[-TAIL:])) for end in ends)

    generator = torch.Generator().manual_seed(config.seed)
    rows = sample_different(
        workspace, base.encode(template.view_prefix), config.questions, config.max_new_tokens, ended, generator, progress
    )
    parted = [base.decode(row).partition(template.view_answer) for row in sorted(rows, key=len)]
    return list(dict.fromkeys(question.strip() for question, separator, _ in parted if separator and question.strip()))


def _answered(workspace: Workspace, template: ViewTemplate, questions: Sequence[str], config: AnchorConfig) -> list[View]:
    """The questions with the answers that the base model gives, as far as those come to an end."""
    base = workspace.base
    prompts = [View(question, "").prompt(base, template) for question in questions]
    ends = base.stop_ids | set(base.start)
    rows = continue_rows(workspace, prompts, config.max_new_tokens, [0.0] * len(prompts), ends)
    lead = template.view_prefix if template.chat else ""
    views: list[View] = []
    for question, row in zip(questions, rows, strict=True):
        text = f"{lead} {question}{template.view_answer} {base.decode(row).strip()}"
        views += parse_views(template, text, finished=len(row) < config.max_new_tokens)[:1]
    return views
