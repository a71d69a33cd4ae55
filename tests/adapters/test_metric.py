"""The metric: a function of the base model and of the lessons, whatever was asked of it before."""

from collections.abc import Callable

import pytest
import torch

from adapters.answers import Counted, Moments, measure_answers
from adapters.config import CurvatureConfig, FoldConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.memory import Memory, of_answer
from adapters.metric import READY, Metric
from adapters.workspace import Workspace

Measure = Callable[[Workspace], Curvature]
CONFIG = CurvatureConfig(learned=0.25, block=4)


def lessons(count: int, first: int = 4) -> list[Memory]:
    return [of_answer([1, first + i, 9], [7, 5 + i]) for i in range(count)]


def equal(one: DampedCurvature, other: DampedCurvature) -> bool:
    pairs = ((one.A, other.A), (one.B, other.B), (one.inverse_A, other.inverse_A), (one.inverse_B, other.inverse_B))
    return all(torch.equal(mine[n], theirs[n]) for mine, theirs in pairs for n in mine)


@pytest.fixture
def make_metric(workspace: Workspace, measure: Measure) -> Callable[..., Metric]:
    curvature = measure(workspace)
    return lambda config=CONFIG: Metric(workspace, curvature, config, FoldConfig())


def test_without_a_whole_block_of_lessons_it_is_that_of_the_base_model(make_metric: Callable[..., Metric]) -> None:
    metric = make_metric()
    base = metric.after([])
    assert metric.after(lessons(3)) is base
    assert metric.after(lessons(4)) is not base
    assert equal(make_metric(CurvatureConfig(learned=0.0, block=1)).after(lessons(4)), base)


def test_lessons_have_their_share_in_the_units_of_the_base_model(make_metric: Callable[..., Metric], workspace: Workspace) -> None:
    base, after = make_metric().after([]), make_metric().after(lessons(5))
    moments = measure_answers(workspace, lessons(4))
    for mine, theirs, counted in ((after.A, base.A, moments.inputs), (after.B, base.B, moments.outputs)):
        for name, matrix in mine.items():
            scaled = counted[name] * (theirs[name].diagonal().mean() / counted[name].diagonal().mean())
            assert torch.allclose(matrix, 0.75 * theirs[name] + 0.25 * scaled, rtol=1e-4, atol=1e-7)


def test_a_metric_grown_block_by_block_is_the_one_after_a_restart(make_metric: Callable[..., Metric]) -> None:
    grown = make_metric()
    for count in range(13):
        grown.after(lessons(count))
    assert equal(grown.after(lessons(13)), make_metric().after(lessons(13)))


def test_between_blocks_nothing_is_measured_and_namespaces_do_not_mix(
    make_metric: Callable[..., Metric], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = make_metric()
    mine, theirs = lessons(6), lessons(6, first=20)
    first, second = metric.after(mine), metric.after(theirs)
    assert not equal(first, second)
    monkeypatch.setattr("adapters.metric.measure_answers", None)
    assert metric.after(mine) is first
    assert metric.after([*theirs, *lessons(1)]) is second


def test_only_so_many_are_kept_ready_and_a_rollback_is_measured_again(make_metric: Callable[..., Metric]) -> None:
    metric = make_metric()
    for first in range(10, 10 + 3 * READY):
        metric.after(lessons(4, first))
    assert len(metric._ready) == READY
    before = metric.after(lessons(4))
    metric.after(lessons(8))
    assert equal(metric.after(lessons(4)), before)


def test_what_was_counted_before_a_restart_is_not_counted_again_and_gives_the_same_metric(
    make_metric: Callable[..., Metric], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, restarted = make_metric(), make_metric()
    assert grown.counted(lessons(13)) is None
    expected = grown.after(lessons(9))
    counted = grown.counted(lessons(13))
    assert counted is not None
    assert counted.lessons == 8
    restarted.resume(lessons(13), counted)
    assert equal(restarted.after(lessons(13)), grown.after(lessons(13)))
    again = make_metric()
    again.resume(lessons(9), counted)
    monkeypatch.setattr("adapters.metric.measure_answers", None)
    assert equal(again.after(lessons(9)), expected)
    assert grown.counted(lessons(13, first=20)) is None


def test_what_was_counted_of_other_layers_or_of_part_of_a_block_is_counted_anew(
    make_metric: Callable[..., Metric], workspace: Workspace
) -> None:
    expected, moments = make_metric().after(lessons(8)), measure_answers(workspace, lessons(4))
    for wrong in (Counted(4, Moments()), Counted(3, moments), Counted(0, moments), Counted(12, moments)):
        metric = make_metric()
        metric.resume(lessons(8), wrong)
        assert equal(metric.after(lessons(8)), expected)
