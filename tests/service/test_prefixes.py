"""What is known of a prompt is what its owner has read before, and never more memory than allowed."""

from itertools import takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.prefixes import BLOCK, Layers, Prefix, PrefixCache

MINE, ANOTHERS = ("mine", "v1"), ("anothers", "v1")
TOKEN_BYTES = 2 * 4
"""Of one layer's keys and values, one float each."""


def layers(tokens: tuple[int, ...]) -> Layers:
    """Keys that say which tokens they are of."""
    keys = torch.tensor(tokens, dtype=torch.float32).view(1, -1, 1)
    return [(keys, -keys)]


def text(*lengths: int) -> tuple[int, ...]:
    """Different tokens in each stretch."""
    return tuple(100 * stretch + i for stretch, length in enumerate(lengths) for i in range(length))


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


TEXTS = st.lists(st.lists(st.sampled_from([(1,) * BLOCK, (2,) * BLOCK, (1,) * 7, (3,)]), max_size=5), max_size=12).map(
    lambda texts: [tuple(token for piece in pieces for token in piece) for pieces in texts]
)


@given(TEXTS, TEXTS)
def test_the_longest_shared_beginning_is_found_in_whole_blocks(known: list[tuple[int, ...]], asked: list[tuple[int, ...]]) -> None:
    cache = PrefixCache(10**6)
    for tokens in known:
        if cache.worth_adding(MINE, tokens):
            cache.add(MINE, tokens, layers(tokens))
    for tokens in asked:
        best = max((shared(tokens[:-1], k) for k in known), default=0) // BLOCK * BLOCK
        found = cache.longest(MINE, tokens)
        assert (found.length if found else 0) == best
        if found:
            assert tuple(found.layers[0][0][0, :best, 0].tolist()) == tokens[:best]
        assert cache.longest(ANOTHERS, tokens) is None
        assert cache.longest((MINE[0], "v2"), tokens) is None


@given(TEXTS, st.integers(0, 60))
def test_no_more_is_kept_than_allowed_and_what_is_kept_can_be_found(known: list[tuple[int, ...]], tokens: int) -> None:
    cache = PrefixCache(tokens * TOKEN_BYTES)
    for one in known:
        if cache.worth_adding(MINE, one):
            cache.add(MINE, one, layers(one))
        assert cache.size <= tokens * TOKEN_BYTES
        findable = {id(found.layers) for k in known if (found := cache.longest(MINE, (*k, 9)))}
        assert len(cache) == len(findable)


def test_the_longest_unused_goes_first() -> None:
    a, b, c = (text(0, 32), text(0, 0, 32), text(0, 0, 0, 32))
    cache = PrefixCache(64 * TOKEN_BYTES)
    cache.add(MINE, a, layers(a))
    cache.add(MINE, b, layers(b))
    assert cache.longest(MINE, (*a, 1)) is not None
    cache.add(MINE, c, layers(c))
    assert [cache.longest(MINE, (*one, 1)) is not None for one in (a, b, c)] == [True, False, True]


def test_a_text_that_goes_on_takes_the_place_of_its_beginning() -> None:
    begun, whole = text(32), text(32, 32)
    cache = PrefixCache(10**6)
    cache.add(MINE, begun, layers(begun))
    cache.add(MINE, whole, layers(whole))
    assert len(cache) == 1
    assert cache.size == 64 * TOKEN_BYTES
    found = cache.longest(MINE, (*begun, 7))
    assert found == Prefix(32, found.layers if found else ())


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    whole = text(2 * BLOCK)
    cache = PrefixCache(10**6)
    cache.add(MINE, whole, layers(whole))
    found = cache.longest(MINE, whole)
    assert found is not None
    assert found.length == BLOCK


@pytest.mark.parametrize(("limit", "length"), [(0, 32), (10**6, BLOCK - 1)])
def test_what_cannot_be_found_or_kept_is_not_worth_adding(limit: int, length: int) -> None:
    assert not PrefixCache(limit).worth_adding(MINE, text(length))


def test_a_text_larger_than_the_cache_is_not_kept() -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    cache.add(MINE, text(32), layers(text(32)))
    assert len(cache) == cache.size == 0
