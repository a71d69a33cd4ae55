"""The protocol on the model that ships: the floor, the ceiling, and infold between a few documents."""

from pathlib import Path

import pytest

from adapters.demo import MODEL_PATH
from benchmarks.learning.protocol import Run, perform


def run(method: str, documents: int = 4, kind: str = "facts") -> Run:
    return Run(str(MODEL_PATH), "demo", kind, documents, 77, method, probes=20)


def test_the_base_model_keeps_everything_and_learns_nothing(tmp_path: Path) -> None:
    found = perform(run("base"), tmp_path)
    assert found.last.NF == found.base.NF >= 0.95
    assert found.last.TL == found.base.TL <= 0.25
    assert found.last.kl == pytest.approx(0.0, abs=1e-6)
    assert [mark.documents for mark in found.curve] == [4]


def test_with_the_document_in_context_nearly_all_is_answered(tmp_path: Path) -> None:
    found = perform(run("in-context", 12), tmp_path)
    assert found.last.TL >= 0.8
    assert found.shuffled <= 0.3


def test_infold_learns_and_its_costs_are_counted(tmp_path: Path) -> None:
    shares: list[float] = []
    found = perform(run("infold"), tmp_path, shares.append)
    assert found.last.TL > found.base.TL
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert found.seconds > found.forward_seconds > 0
    assert found.peak_mb > 100
    assert found.notes["lessons"] >= 4


def test_knobs_that_a_method_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no knob"):
        perform(Run(str(MODEL_PATH), "demo", "facts", 1, 1, "lora", {"speed": 1.0}), tmp_path)
