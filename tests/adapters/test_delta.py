"""Theorems of the algebra of deltas: an abelian group whose sums are exact."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adapters.delta import GRID, LIMIT, Delta, DeltaSum, join

LAYERS = {"low": (6, 9), "high": (4, 5)}
"""Layer -> (d_out, d_in)."""
scales = st.sampled_from([1e-12, 1e-5, 1e-2, 1.0, 10.0])
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
orders = st.randoms(use_true_random=False)


def draw(seed: int, scale: float = 1e-2, rank: int = 3) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(
        {
            name: (scale * torch.randn(rows, rank, generator=generator), torch.randn(columns, rank, generator=generator))
            for name, (rows, columns) in LAYERS.items()
        }
    )


def weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(99)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in LAYERS.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@given(st.lists(scales, min_size=1, max_size=6), orders, dtypes)
def test_removing_what_was_added_in_any_order_restores_the_weights_bit_for_bit(
    sizes: list[float], order: random.Random, dtype: torch.dtype
) -> None:
    base, deltas = weights(dtype), [draw(seed, scale) for seed, scale in enumerate(sizes)]
    total = DeltaSum(base)
    for delta in deltas:
        total.add(delta)
    for delta in order.sample(deltas, len(deltas)):
        total.remove(delta)
    assert same(total.weights(), base)
    assert not any(change.any() for change in total.totals.values())


@given(st.lists(scales, min_size=2, max_size=6), orders)
def test_a_sum_does_not_depend_on_the_order_of_its_deltas(sizes: list[float], order: random.Random) -> None:
    deltas = [draw(seed, scale) for seed, scale in enumerate(sizes)]
    one, other = DeltaSum(weights()), DeltaSum(weights())
    for delta in deltas:
        one.add(delta)
    for delta in order.sample(deltas, len(deltas)):
        other.add(delta)
    assert same(one.totals, other.totals)
    assert same(one.weights(), other.weights())


@given(st.lists(scales, min_size=2, max_size=4), st.integers(0, 3))
def test_removing_one_delta_leaves_the_sum_of_the_others(sizes: list[float], which: int) -> None:
    deltas = [draw(seed, scale) for seed, scale in enumerate(sizes)]
    gone = deltas[which % len(deltas)]
    total, others = DeltaSum(weights()), DeltaSum(weights())
    for delta in deltas:
        total.add(delta)
        if delta is not gone:
            others.add(delta)
    total.remove(gone)
    assert same(total.weights(), others.weights())


def test_a_change_lies_on_the_grid_that_sums_exactly() -> None:
    steps = draw(0).dense("low") * GRID
    assert torch.equal(steps, steps.round())


def test_a_change_too_large_to_be_summed_exactly_is_refused() -> None:
    total = DeltaSum({"layer": torch.zeros(1, 1)})
    with pytest.raises(AssertionError, match="exact"):
        total.add(Delta({"layer": (torch.full((1, 1), 2 * LIMIT), torch.ones(1, 1))}))


def test_a_change_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(AssertionError, match="exact"):
        DeltaSum(weights()).add(draw(0, float("nan")))


@given(st.integers(0, 50), scales, st.floats(0, 0.99))
def test_truncation_loses_no_more_than_the_share_it_was_told(seed: int, scale: float, keep: float) -> None:
    delta = draw(seed, scale, rank=4)
    short = delta.truncate(keep)
    for name, (left, right) in delta.factors.items():
        dense = left.double() @ right.double().T
        lost = dense - short.factors[name][0].double() @ short.factors[name][1].double().T
        largest = float(torch.linalg.matrix_norm(dense, 2))
        assert float(torch.linalg.matrix_norm(lost, 2)) <= (keep + 1e-5) * largest


def test_truncation_finds_the_rank_of_a_change() -> None:
    left, right = torch.randn(6, 2), torch.randn(9, 2)
    wide = Delta({"low": (torch.cat([left, left, -left], 1), torch.cat([right, 2 * right, right], 1))})
    short = wide.truncate(1e-4)
    assert short.factors["low"][0].shape == (6, 2)
    torch.testing.assert_close(short.dense("low"), wide.dense("low"), rtol=1e-4, atol=1e-5)
    assert short.nbytes < wide.nbytes


@pytest.mark.parametrize("rank", [0, 2])
def test_truncating_a_change_of_nothing_changes_nothing(rank: int) -> None:
    short = Delta({"low": (torch.zeros(6, rank), torch.zeros(9, rank))}).truncate(1e-2)
    assert torch.equal(short.dense("low"), torch.zeros(6, 9, dtype=torch.float64))


@given(st.integers(0, 50), st.sampled_from([1e-12, 1.0, 1e24]))
def test_norms_equal_those_of_the_dense_change(seed: int, scale: float) -> None:
    delta = draw(seed, scale)
    for name, (left, right) in delta.factors.items():
        assert delta.norms()[name] == pytest.approx(float((left.double() @ right.double().T).norm()), rel=1e-6)


@given(st.integers(1, 4))
def test_a_joined_delta_does_what_its_parts_do(count: int) -> None:
    deltas = [draw(seed) for seed in range(count)]
    for name in LAYERS:
        torch.testing.assert_close(join(deltas).dense(name), sum(d.dense(name) for d in deltas), rtol=0, atol=2 * count / GRID)


def test_reading_the_weights_between_changes_does_not_change_them() -> None:
    read, unread = DeltaSum(weights()), DeltaSum(weights())
    for total in (read, unread):
        for change in (total.add, total.copy().add, total.remove, total.add):
            change(draw(0))
            if total is read:
                total.weights()
    assert same(read.weights(), unread.weights())
    assert not same(read.weights(), weights())


def test_deltas_of_different_layers_join() -> None:
    whole = draw(0)
    halves = [Delta({name: pair}) for name, pair in whole.factors.items()]
    assert same({n: join(halves).dense(n) for n in LAYERS}, {n: whole.dense(n) for n in LAYERS})


@pytest.mark.parametrize("nothing", [Delta.zero(), join([])])
def test_the_zero_delta_changes_nothing(nothing: Delta) -> None:
    base = weights()
    total = DeltaSum(base)
    total.add(nothing)
    assert all(total.weight(name) is base[name] for name in base)
    assert nothing.nbytes == 0
    assert nothing.norms() == {}
    assert nothing.truncate(0.1).factors == {}


def test_a_copy_of_a_sum_is_independent_of_it() -> None:
    total = DeltaSum(weights())
    total.add(draw(0))
    before, copy = total.weights(), total.copy()
    copy.add(draw(1))
    assert same(total.weights(), before)
    assert not same(copy.weights(), before)


def test_summed_weights_keep_the_dtype_of_the_base() -> None:
    total = DeltaSum(weights(torch.bfloat16))
    total.add(draw(0))
    assert {weight.dtype for weight in total.weights().values()} == {torch.bfloat16}
