"""What is near does not depend on what was asked before, and costs no more after many lessons."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import nearness
from adapters.memory import Memory, of_answer
from adapters.nearness import Nearness

token_rows = st.lists(st.integers(0, 5000), min_size=1, max_size=6)
questions = st.builds(of_answer, token_rows, token_rows)


@given(st.lists(questions, max_size=6), st.lists(questions, max_size=12), st.lists(st.integers(0, 12), max_size=6), questions)
def test_a_list_that_grows_or_changes_is_searched_as_if_it_were_new(
    among: list[Memory], lessons: list[Memory], lengths: list[int], asked: Memory
) -> None:
    used = Nearness(tuple(among))
    for length in lengths:
        for listed in (lessons[:length], list(reversed(lessons))[:length]):
            assert used.nearest([asked], 5, listed) == Nearness(tuple(among)).nearest([asked], 5, listed)


def test_only_what_is_new_in_a_list_is_looked_at() -> None:
    lessons = [of_answer((1, 2, token), (9,)) for token in range(50)]
    near, seen = Nearness(tuple(lessons[:5])), list[int]()

    def count(memories: list[Memory]) -> object:
        seen.append(len(memories))
        return bags(memories)

    bags = nearness._bags
    with patch.object(nearness, "_bags", count):
        for length in (40, 41, 42, 50):
            near.nearest(lessons[:1], 3, lessons[:length])
    assert seen == [40, 1, 1, 1, 1, 1, 8, 1]  # of the list, and what is asked


@given(questions, questions)
def test_what_two_questions_share_is_all_of_the_shorter_one_where_it_is_part_of_the_other(one: Memory, other: Memory) -> None:
    near = Nearness((one, other))
    both = of_answer((*one.prompt, *other.prompt), (9,))
    assert near.shared(one, both) == pytest.approx(1.0)
    assert near.shared(one, other) <= 1 + 1e-9
