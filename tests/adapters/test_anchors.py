"""Anchors: sampled from the base model, sure, and found by what they share with a lesson."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.anchors import Anchors, sample_anchors
from adapters.base_model import load_base_model
from adapters.config import AnchorConfig, TargetConfig
from adapters.demo import MODEL_PATH
from adapters.errors import CorruptCheckpoint
from adapters.measured import ANCHORS, anchors_of, find_anchors
from adapters.memory import Memory, of_answer, remembered
from adapters.targets import find_targets
from adapters.views import ViewTemplate, template_for
from adapters.workspace import Workspace

CONFIG = AnchorConfig(questions=40, max_new_tokens=24)
token_rows = st.lists(st.integers(0, 5000), min_size=1, max_size=6)
known = st.lists(st.builds(of_answer, token_rows, token_rows), max_size=8)


@pytest.fixture(scope="module")
def knowing() -> tuple[Workspace, ViewTemplate]:
    """The model that ships: it knows things."""
    base = load_base_model(str(MODEL_PATH), "cpu", "float32")
    return Workspace(base, find_targets(base.model, TargetConfig())), template_for(base)


def test_anchors_are_different_questions_that_the_base_model_answers_surely(knowing: tuple[Workspace, ViewTemplate]) -> None:
    workspace, template = knowing
    found = sample_anchors(workspace, template, CONFIG)
    assert found.memories
    assert len({m.prompt for m in found.memories}) == len(found.memories)
    assert all(remembered(workspace, found.memories))
    sample = workspace.batch([list(found.memories[0].ids)])
    answer = workspace.nll(sample)[0, len(found.memories[0].prompt) - 1 :]
    assert float((-answer).exp().min()) >= CONFIG.sure
    assert sample_anchors(workspace, template, CONFIG) == found
    assert len(sample_anchors(workspace, template, replace(CONFIG, sure=1.0)).memories) < len(found.memories)


def test_anchors_are_sampled_once(knowing: tuple[Workspace, ViewTemplate], tmp_path: Path) -> None:
    workspace, template = knowing
    base = replace(workspace.base, source=str(tmp_path))  # nothing lies beside its weights
    own = Workspace(base, workspace.targets)
    first = anchors_of(own, template, tmp_path, CONFIG)
    again = anchors_of(own, template, tmp_path, CONFIG, lambda _: pytest.fail("sampled twice"))
    assert again == first == find_anchors(base, tmp_path)
    (tmp_path / base.digest / ANCHORS).write_bytes(b"half")
    assert find_anchors(base, tmp_path) is None


def test_without_samples_there_are_no_anchors(knowing: tuple[Workspace, ViewTemplate], tmp_path: Path) -> None:
    assert anchors_of(*knowing, tmp_path, AnchorConfig(questions=0)).memories == ()


@given(known)
def test_a_file_of_anchors_gives_them_back(tmp_path_factory: pytest.TempPathFactory, memories: list[Memory]) -> None:
    path = tmp_path_factory.mktemp("anchors") / "anchors.safetensors"
    anchors = Anchors(tuple(memories), "digest")
    anchors.save(path)
    assert Anchors.load(path, "digest") == anchors
    with pytest.raises(CorruptCheckpoint):
        Anchors.load(path, "other")


def test_the_nearest_anchor_shares_the_rarest_tokens() -> None:
    common = [of_answer((1, 2, 3, name), (9,)) for name in range(100, 120)]
    near, unlike = of_answer((1, 4, 5, 119), (9,)), of_answer((7, 8), (9,))
    anchors = Anchors((*common, near, unlike), "")
    asked = of_answer((1, 4, 6, 119), (8,))
    assert anchors.nearest([asked], 2) == [near, common[-1]]
    assert anchors.nearest([asked], 99)[-1] == unlike
    assert anchors.nearest([], 3) == []
    assert Anchors((), "").nearest([asked], 3) == []


@given(token_rows, token_rows)
def test_without_anchors_nothing_tells_that_two_questions_are_about_the_same(prompt: list[int], answer: list[int]) -> None:
    asked = of_answer(prompt, answer)
    assert not Anchors((), "").same_subject(asked, asked)
    assert Anchors((asked,), "").same_subject(asked, asked)
