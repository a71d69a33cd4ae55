"""The plan of a report: fair tuning, the same streams for everybody, and going on where it stopped."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import AdapterError
from benchmarks.learning.methods import METHODS
from benchmarks.learning.plan import TUNING_SEED, Plan, make_plan
from benchmarks.learning.protocol import Mark, Outcome, Run
from benchmarks.learning.report import write_report
from benchmarks.learning.results import Results

PLAN = Plan(
    "model", "demo", counts=(4, 50), long=100, seeds=(1, 2), methods=("infold", "lora", "ewc", "base"), ablations=("no-views",)
)


def outcome(run: Run, TL: float = 0.5, NF: float = 0.5) -> Outcome:
    curve = tuple(Mark(n, TL, NF, 0.1, 2.0) for n in (*run.marks, run.documents) if n <= run.documents)
    return Outcome(run, replace(curve[0], documents=0), curve, TL, TL, None, None, 0.1, 0.2, 0.01, 1.0, 100.0, 5.0, {"x": 1.0})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def do_all(plan: Plan, results: Results) -> dict[str, list[Run]]:
    """Every run of the plan; a rival is the better, the higher its rate."""
    done = {}
    for name, runs in plan.phases(results):
        done[name] = runs
        for run in runs:
            rate = run.knobs.get("rate", 0.0)
            results.add(outcome(run, TL=min(1.0, 300 * rate) if run.method == "lora" else 0.2))
    return done


def test_rivals_are_tuned_on_a_stream_that_no_report_uses(results: Results) -> None:
    done = do_all(PLAN, results)
    tuning = {name: runs for name, runs in done.items() if name.startswith("tuning")}
    assert {run.seed for runs in tuning.values() for run in runs} == {TUNING_SEED}
    assert all(run.seed != TUNING_SEED for name, runs in done.items() if name not in tuning for run in runs)
    grid = METHODS["lora"].grid
    rates, steps = ([r.knobs for r in tuning[f"tuning, knob {k}"] if r.method == "lora"] for k in (1, 2))
    assert [knobs["rate"] for knobs in rates] == list(grid["rate"])
    assert {knobs["steps"] for knobs in rates} == {grid["steps"][0]}
    assert [knobs["steps"] for knobs in steps] == list(grid["steps"])
    assert {knobs["rate"] for knobs in steps} == {max(grid["rate"])}


def test_the_best_knobs_are_taken_and_everybody_runs_on_the_same_streams(results: Results) -> None:
    done = do_all(PLAN, results)
    for count in PLAN.counts:
        runs = done[f"{count} documents"]
        assert {(run.method, run.seed) for run in runs} == {(m, s) for m in PLAN.methods for s in PLAN.seeds}
        assert {run.documents for run in runs} == {count}
        assert {run.knobs["rate"] for run in runs if run.method == "lora"} == {max(METHODS["lora"].grid["rate"])}


def test_the_knobs_for_a_stream_are_those_that_were_best_at_its_length(results: Results) -> None:
    tuning = Run("model", "demo", "facts", 100, TUNING_SEED, "lora", marks=(40, 100))
    for rate, early, late in ((0.1, 0.9, 0.2), (0.01, 0.5, 0.4)):
        curve = (Mark(40, early, 0.5, 0.1, 2.0), Mark(100, late, 0.5, 0.1, 2.0))
        results.add(replace(outcome(replace(tuning, knobs={"rate": rate})), curve=curve))
    assert [PLAN.chosen(results, "lora", count).knobs["rate"] for count in (10, 40, 99, 100, 1000)] == [0.1, 0.1, 0.1, 0.01, 0.01]


def test_infold_and_the_best_rivals_go_on_to_the_long_stream(results: Results) -> None:
    runs = do_all(PLAN, results)["100 documents"]
    assert [run.method for run in runs] == ["infold", "lora", "ewc"]


def test_what_was_done_is_found_again_and_a_torn_line_is_done_again(tmp_path: Path, results: Results) -> None:
    first, second = (Run("model", "demo", "facts", 4, seed, "lora", {"rate": 0.1}) for seed in (1, 2))
    for run in (first, second):
        results.add(outcome(run))
    assert Results(tmp_path).of(first) == outcome(first)
    lines = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(lines[:-20])
    assert Results(tmp_path).of(first) == outcome(first)
    assert Results(tmp_path).of(second) is None
    assert Results(tmp_path).of(replace(first, knobs={"rate": 0.2})) is None
    again = Results(tmp_path)
    again.add(outcome(second))
    assert Results(tmp_path).of(second) == outcome(second)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"documents": "4,x"}, "numbers"),
        ({"documents": "0"}, "at least one document"),
        ({"seeds": f"1,{TUNING_SEED}"}, "taken"),
        ({"methods": "infold,foo"}, "no method foo"),
        ({"ablations": "foo"}, "no ablation foo"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(words: dict[str, str], reason: str) -> None:
    usual = {"documents": "4", "seeds": "1", "methods": "all", "ablations": "none"}
    with pytest.raises(AdapterError, match=reason):
        make_plan(None, "demo", long=0, **usual | words)


def test_a_report_names_every_run_and_shows_the_plots(tmp_path: Path, results: Results) -> None:
    do_all(PLAN, results)
    text = write_report(PLAN, results, tmp_path, "trial", "infold bench learning").read_text()
    for count in (4, 50, 100):
        assert f"## {count} documents" in text
        for kind in ("curves", "frontier", "cost"):
            assert (tmp_path / f"trial-{count}-{kind}.png").stat().st_size > 1000
            assert f"(trial-{count}-{kind}.png)" in text
    assert "| lora | 2 | 0.900 | 0.500 | 1.400 |" in text
    assert "raw text instead of views" in text
    assert "rate 0.003, steps 30" in text
    assert "Lead of infold in TL + NF over the best rival that sees no documents, lora: -0.700." in text
