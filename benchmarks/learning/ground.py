"""What every method starts from: one base model, its tokenizer and view template, text sampled from it, and its costs.

Covered: loading, copies of the model, what preserved text is. Not covered: learning (`methods/`), measuring (`measure.py`).
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adapters.anchors import Anchors
from adapters.base_model import BaseModel, load_base_model, pad_rows
from adapters.config import LearnConfig
from adapters.curvature import Curvature, sample_text
from adapters.importance import TokenScorer
from adapters.measured import anchors_of, curvature_of, find_scorer, save_into
from adapters.targets import find_targets
from adapters.tensor_file import read_tensors, write_tensors
from adapters.views import ViewTemplate, template_for
from adapters.workspace import Batch, Workspace

SAMPLES = 1536
"""Texts sampled from the base model: as many as infold's own curvature is measured on. Every method that preserves
old knowledge by data gets these, and no other text."""
LENGTH = 64
"""Tokens of each."""


@dataclass(frozen=True)
class Ground:
    """The same for every method of a run."""

    source: str
    """Directory or hub id of the base model."""
    cache: Path
    """Where curvature and scorer are found or kept."""
    config: LearnConfig = field(default_factory=LearnConfig)

    @cached_property
    def base(self) -> BaseModel:
        """The base model, float32, never changed."""
        return load_base_model(self.source, "cpu", "float32")

    @cached_property
    def template(self) -> ViewTemplate:
        """How this model is asked for views."""
        return template_for(self.base)

    @cached_property
    def curvature(self) -> Curvature:
        """Infold's, measured once."""
        return curvature_of(self.workspace(), self.anchors, self.cache, self.config.curvature)

    @cached_property
    def anchors(self) -> Anchors:
        """Infold's, sampled once."""
        return anchors_of(self.workspace(), self.template, self.cache, self.config.anchors)

    @cached_property
    def scorer(self) -> TokenScorer | None:
        """Infold's, if it was trained."""
        return find_scorer(self.base, self.cache)

    @cached_property
    def preserved(self) -> Tensor:
        """(SAMPLES, LENGTH) int64: text sampled from the base model, once."""
        path = self.cache / self.base.digest / f"preserved-{SAMPLES}x{LENGTH}.safetensors"
        if path.is_file():
            return read_tensors(path, self.base.digest, "preserved text")["ids"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20)
            workspace = self.workspace()
            ids = torch.cat([sample_text(workspace, 64, LENGTH) for _ in range(SAMPLES // 64)])
        save_into(path.parent, path.name, lambda unfinished: write_tensors(unfinished, {"ids": ids}, self.base.digest))
        return ids

    def workspace(self) -> Workspace:
        """A fresh learner's view of the base model."""
        return Workspace(self.base, find_targets(self.base.model, self.config.targets))

    def model(self) -> PreTrainedModel:
        """A copy of the base model to train."""
        twin: PreTrainedModel = copy.deepcopy(self.base.model)
        twin.eval()  # type: ignore[no-untyped-call]
        return twin.requires_grad_(True)

    def batch(self, rows: list[list[int]]) -> Batch:
        """Right-padded batch of token rows."""
        return Batch(*pad_rows(rows, self.base.pad_id, self.base.device))
