"""Tasks that the model writes for itself."""

from collections.abc import Callable

import pytest

from adapters.base_model import BaseModel
from adapters.config import ViewConfig
from adapters.tasks import sampled_texts, self_written_tasks
from adapters.views import ViewTemplate
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
CONFIG = ViewConfig(count=1, max_new_tokens=16)
CORPUS = [f"Mira Holm was born in {place}." for place in ("Graz", "Lund", "Oslo")]


@pytest.fixture
def reading(reader: BaseModel, make_workspace: MakeWorkspace) -> Workspace:
    return make_workspace(reader)


@pytest.mark.parametrize("bos", [True, False])
def test_sampled_texts_can_all_be_learned_from(bos: bool, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace("llama", bos=bos)
    texts = list(sampled_texts(workspace, 40))
    assert 0 < len(texts) <= 40
    assert all(len(workspace.base.encode(text)) > 1 for text in texts)
    assert all(text == text.strip() for text in texts)


def test_each_view_of_a_text_judges_the_text_and_itself(reading: Workspace, template: ViewTemplate) -> None:
    base = reading.base
    tasks = self_written_tasks(reading, template, CONFIG, 6, 100, CORPUS)
    assert len(tasks) == 6
    for text, (on_text, on_view) in zip(CORPUS, zip(tasks[::2], tasks[1::2], strict=True), strict=True):
        place = text.rsplit(" ", 1)[1]
        assert base.decode(on_text.text) == text
        assert base.decode(on_view.text) == f"Q: Where was Mira Holm born? A: {place}"
        assert on_view.text == on_view.prompt + on_view.answer
        assert (on_text.prompt, on_text.answer) == (on_view.prompt, on_view.answer)


@pytest.mark.parametrize("wanted", [1, 3, 100])
def test_no_more_tasks_than_wanted_and_no_more_than_there_are(wanted: int, reading: Workspace, template: ViewTemplate) -> None:
    shares: list[float] = []
    tasks = self_written_tasks(reading, template, CONFIG, wanted, 100, CORPUS, shares.append)
    assert len(tasks) == min(wanted, 2 * len(CORPUS))
    assert shares == sorted(shares)
    assert shares[-1] == min(1.0, 2 * len(CORPUS) / wanted)


def test_a_model_that_writes_no_views_gives_no_tasks(workspace: Workspace, template: ViewTemplate) -> None:
    assert self_written_tasks(workspace, template, CONFIG, 2, 100) == []


def test_tasks_are_written_at_the_base_weights(reading: Workspace, template: ViewTemplate) -> None:
    expected = self_written_tasks(reading, template, CONFIG, 6, 100, CORPUS)
    reading.install({name: -weight for name, weight in reading.base_weights.items()})
    assert self_written_tasks(reading, template, CONFIG, 6, 100, CORPUS) == expected
