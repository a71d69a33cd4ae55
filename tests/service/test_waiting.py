"""Whose turn it is: nobody is forgotten, and nobody waits for more than a fair share of the others."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QueueFull
from service.waiting import Waiting

ARRIVALS = st.lists(st.sampled_from("abc"), max_size=30)


def filled(arrivals: list[str]) -> Waiting[tuple[str, int]]:
    waiting: Waiting[tuple[str, int]] = Waiting(100)
    for number, namespace in enumerate(arrivals):
        waiting.add(namespace, (namespace, number))
    return waiting


@given(ARRIVALS)
def test_all_leave_once_and_each_namespace_in_the_order_of_arrival(arrivals: list[str]) -> None:
    waiting, underway = filled(arrivals), Counter[str]()
    taken = []
    while (first := waiting.first(underway)) is not None:
        assert waiting.take(underway) == first
        taken.append(first)
        underway[first[0]] += 1
    assert sorted(taken, key=lambda one: one[1]) == list(zip(arrivals, range(len(arrivals)), strict=True))
    for namespace in "abc":
        own = [one for one in taken if one[0] == namespace]
        assert own == sorted(own)
    assert len(waiting) == 0


@given(ARRIVALS, st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)))
def test_the_next_has_the_fewest_on_their_way(arrivals: list[str], underway: dict[str, int]) -> None:
    first = filled(arrivals).first(underway)
    if first is not None:
        assert underway.get(first[0], 0) == min(underway.get(namespace, 0) for namespace in set(arrivals))


def test_equals_take_turns() -> None:
    waiting = filled(list("aaabbc"))
    assert "".join(waiting.take({})[0] for _ in range(6)) == "abcaba"


def test_one_that_comes_late_does_not_wait_for_a_crowd_of_another_namespace() -> None:
    waiting = filled(["crowd"] * 50)
    waiting.add("late", ("late", 50))
    assert waiting.first({"crowd": 32}) == ("late", 50)


def test_each_namespace_has_a_bound_of_its_own() -> None:
    waiting: Waiting[int] = Waiting(2)
    for number in range(2):
        waiting.add("crowd", number)
    with pytest.raises(QueueFull, match="2 requests of namespace crowd"):
        waiting.add("crowd", 2)
    waiting.add("other", 3)
    assert sorted(waiting) == [0, 1, 3]
    waiting.clear()
    assert waiting.first({}) is None
