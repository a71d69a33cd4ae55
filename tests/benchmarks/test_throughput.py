"""Contenders are measured by turns and compared within a round; what was measured is written down and shown."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.demo import MODEL_PATH
from benchmarks.serving.contenders import Contender, Sample
from benchmarks.serving.report import keep, write_report
from benchmarks.serving.throughput import WAVES, Prompts, Row, Sitting, by_turns, gather, ratio

Call = tuple[str, int, int, int]
"""Who, how many prompts, how many at a time, tokens of an answer."""


class Told:
    """A contender that says a speed, and what it was asked."""

    def __init__(self, name: str, speeds: Sequence[float], calls: list[Call]) -> None:
        self._name, self._speeds, self._calls = name, iter(speeds), calls

    def measure(self, prompts: Sequence[str], concurrency: int, tokens: int) -> Sample:
        self._calls.append((self._name, len(prompts), concurrency, tokens))
        return Sample(0.0 if tokens < 64 else next(self._speeds), 0.1, 0.02, 0.05)


@pytest.fixture
def prompts() -> Prompts:
    return Prompts(MODEL_PATH, tokens=3)


def test_each_round_measures_everybody_once_after_a_short_turn_that_does_not_count(prompts: Prompts) -> None:
    calls: list[Call] = []
    contenders = [Contender(name, "base", Told(name, [1.0, 2.0], calls).measure) for name in ("a", "b")]
    turns = list(by_turns(contenders, prompts, (8,), tokens=64, rounds=2))
    assert [name for name, *_ in calls] == ["a", "b"] * 3
    assert {asked[1:] for asked in calls[2:]} == {(WAVES * 8, 8, 64)}
    assert [(c.name, concurrency, s.tokens_per_second) for c, concurrency, s in turns] == [
        ("a", 8, 1.0), ("b", 8, 1.0), ("a", 8, 2.0), ("b", 8, 2.0),
    ]  # fmt: skip


def test_who_takes_one_at_a_time_is_measured_once_a_round(prompts: Prompts) -> None:
    calls: list[Call] = []
    turns = list(by_turns([Contender("a", "base", Told("a", [1.0], calls).measure, alone=True)], prompts, (1, 8), 64, 1))
    assert [concurrency for _, concurrency, _ in turns] == [1]


def test_a_ratio_compares_neighbours_in_time() -> None:
    ours = Row("a", "base", 1, tuple(map(Sample, (10.0, 100.0, 20.0))))
    theirs = Row("b", "base", 1, tuple(map(Sample, (5.0, 50.0, 20.0))))
    assert ratio(ours, theirs) == 2.0


def test_prompts_have_the_length_that_was_asked_for_and_differ(prompts: Prompts) -> None:
    from adapters.base_model import load_base_model

    drawn, tokenizer = prompts.draw(50), load_base_model(str(MODEL_PATH), "cpu", "float32").tokenizer
    assert {len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in drawn} == {3}
    assert len(set(drawn)) == 50


def test_what_was_kept_is_shown_with_ratios_on_the_same_weights(tmp_path: Path, prompts: Prompts) -> None:
    calls: list[Call] = []
    speeds = {("infold", "base"): 30.0, ("infold", "adapted"): 27.0, ("other", "base"): 20.0, ("other", "adapted"): 9.0}
    contenders = [Contender(name, weights, Told(name, [speed] * 2, calls).measure) for (name, weights), speed in speeds.items()]
    rows = gather(list(by_turns(contenders, prompts, (1, 8), 64, 1)))
    sitting = Sitting("infold bench serving", "llama", 33_700_000, "float32", 3, 64, rows)
    assert Sitting.from_json(sitting.to_json()) == sitting
    keep(sitting, tmp_path)
    text = write_report(tmp_path).read_text()
    assert "| infold | base | 30 | 30 |" in text
    assert "| other | base | 20 (1.50) | 20 (1.50) |" in text
    assert "| other | adapted | 9 (3.00) | 9 (3.00) |" in text
    assert "| infold, adapted over base |  | 0.90 | 0.90 |" in text
    assert (tmp_path / "throughput-float32-3.png").stat().st_size > 0
