"""What is near does not depend on what was asked before, and costs no more after many lessons."""

import math
from collections import Counter
from unittest.mock import patch

from hypothesis import assume, given
from hypothesis import strategies as st

from adapters import nearness
from adapters.memory import Memory, of_answer
from adapters.nearness import LEAST_RARITY, OWN, Nearness

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
    lessons, asked = [of_answer((1, 2, token), (9,)) for token in range(50)], of_answer((1, 3), (9,))
    near, seen = Nearness(tuple(lessons[:5])), Counter[Memory]()

    def counting(memory: Memory) -> frozenset[int]:
        seen[memory] += 1
        return bag(memory)

    bag = nearness._bag
    with patch.object(nearness, "_bag", counting):
        for length in (40, 41, 42, 50):
            near.nearest([asked], 3, lessons[:length])
    assert seen == Counter(lessons) + Counter({asked: 4})


words = st.lists(st.integers(0, 12), min_size=1, max_size=5)


@given(words, words, st.lists(words, max_size=8))
def test_two_ask_about_the_same_if_what_one_has_of_its_own_is_common(
    one: list[int], other: list[int], among: list[list[int]]
) -> None:
    rarity = {word: math.log((1 + len(among)) / (1 + sum(word in a for a in among))) + LEAST_RARITY for word in range(13)}

    def rarest(found: set[int]) -> float:
        return max((rarity[word] for word in found), default=0.0)

    mine, theirs = set(one), set(other)
    own, both = min(rarest(mine - theirs), rarest(theirs - mine)), rarest(mine & theirs)
    assume(abs(own - OWN * both) > 1e-5)  # single precision
    near = Nearness([of_answer(a, (9,)) for a in among])
    assert near.same_subject(of_answer(one, (9,)), of_answer(other, (9,))) == (own < OWN * both)


@given(questions, questions)
def test_a_question_that_has_nothing_of_its_own_may_ask_about_the_same(one: Memory, other: Memory) -> None:
    assert Nearness((one, other)).same_subject(one, of_answer((*one.prompt, *other.prompt), (9,)))


@given(st.integers(2, 9), st.integers(0, 8))
def test_who_shares_half_of_a_name_and_all_of_the_wording_is_somebody_else(names: int, wording: int) -> None:
    def asked(first_word: int, first: int, last: int) -> Memory:
        return of_answer((1, *range(first_word, first_word + wording), 100 + first, 200 + last), (9,))

    near = Nearness(tuple(asked(500, first, last) for first in range(names) for last in range(names)))
    assert not near.same_subject(asked(500, 0, 0), asked(500, 0, 1))
    assert not near.same_subject(asked(500, 0, 0), asked(500, 1, 0))
    assert near.same_subject(asked(500, 0, 0), asked(600, 0, 0))
