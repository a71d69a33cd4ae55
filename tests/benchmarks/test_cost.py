"""Costs are measured on what the server itself runs, and their report shows ratios of what alternated."""

import json
from pathlib import Path

import pytest

from adapters.base_model import load_base_model
from adapters.demo import MODEL_PATH
from benchmarks.serving.contenders import Sample
from benchmarks.serving.cost import Cost
from benchmarks.serving.cost_report import write_report
from benchmarks.serving.per_token import LENGTHS, EngineAlone, Price, prices
from benchmarks.serving.throughput import Row
from benchmarks.serving.while_learning import Comparison, Phase


def phase(speed: float, live: float | None) -> Phase:
    return Phase(speed, 1 / speed, 2 / speed, 3 / speed, live, 5)


COMPARISON = Comparison(
    4, Phase(None, None, None, None, 1.0, 9), ((phase(100.0, None), phase(80.0, 2.0)), (phase(50.0, None), phase(45.0, 3.0)))
)


def test_a_comparison_takes_the_median_of_rounds_and_learns_over_learning_alone() -> None:
    assert COMPARISON.ratio("tokens_per_second") == pytest.approx(0.85)
    assert COMPARISON.ratio("live") == 2.5


def test_everything_that_happens_to_a_token_has_a_price() -> None:
    found = prices(load_base_model(str(MODEL_PATH), "cpu", "float32"))
    assert len(found) == 3
    assert all(len(price.microseconds) == len(LENGTHS) and min(price.microseconds) > 0 for price in found)


def test_the_engine_alone_writes_every_token_of_every_stream() -> None:
    engine = EngineAlone.serving(MODEL_PATH, "float32", streams=2)
    found = engine.measure(["News:", "News of today:", "The"], 2, 8)
    engine.stop()
    assert found.failed == 0
    assert found.tokens_per_second > 0


def test_a_report_shows_what_was_kept(tmp_path: Path) -> None:
    rows = (Row("engine alone", "base", 4, (Sample(100.0),)), Row("through HTTP", "base", 4, (Sample(80.0),)))
    cost = Cost("infold bench cost", (Price("text", (1.0, 2.0, 3.0)),), rows, (COMPARISON,), (COMPARISON,), (), (COMPARISON,))
    text = write_report(cost, tmp_path).read_text()
    assert "| 4 | 100 | 80 | 0.80 | 2500 |" in text
    assert "| in a worker | 4 | 0.85 |" in text
    assert "in a worker, its own core" not in text
    assert "| in another server, its own core | 4 | 0.85 |" in text
    assert json.loads((tmp_path / "cost.json").read_text())["inside"][0]["rounds"][0][1]["live"] == 2.0
