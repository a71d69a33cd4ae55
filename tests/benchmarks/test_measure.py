"""Questions are judged as if each answer had been written out."""

from pathlib import Path

import pytest
import torch

from adapters.demo import MODEL_PATH
from benchmarks.learning.ground import Ground
from benchmarks.learning.measure import answers_right, written
from benchmarks.learning.streams import facts
from benchmarks.learning.worlds import open_world


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_an_answer_is_right_when_it_is_what_is_written_up_to_the_full_stop(noise: float, tmp_path: Path) -> None:
    """Of a model that knows much, of one that is unsure, and of one that writes nonsense."""
    ground = Ground(str(MODEL_PATH), tmp_path)
    model, stream = ground.model(), facts(open_world("demo"), 3, 10, 60)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    asked = [*stream.known, *(a for step in stream.steps for a in step.asked)]

    def prompt(question: str) -> str:
        return f"{ground.template.view_prefix} {question}{ground.template.view_answer}"

    texts = written(model, ground, [prompt(a.question) for a in asked])
    right = answers_right(model, ground, asked, prompt)
    assert right == [text == a.answer for text, a in zip(texts, asked, strict=True)]
    assert (sum(right) > 10) == (noise < 0.1)


def test_preserved_text_is_sampled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.learning.ground.SAMPLES", 64)
    first = Ground(str(MODEL_PATH), tmp_path).preserved
    monkeypatch.setattr("benchmarks.learning.ground.sample_text", None)
    assert torch.equal(Ground(str(MODEL_PATH), tmp_path).preserved, first)
