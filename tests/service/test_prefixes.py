"""What is known of a prompt is what its owner has read before, and never more memory than allowed."""

from itertools import takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.prefixes import BLOCK, Layers, Owner, PrefixCache

MINE, ANOTHERS = ("mine", "v1"), ("anothers", "v1")
BLOCK_BYTES = BLOCK * 2 * 4
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


def found(cache: PrefixCache, tokens: tuple[int, ...], owner: Owner = MINE) -> int:
    """How much of a prompt is known, and known rightly."""
    prefix = cache.longest(owner, tokens)
    if prefix is None:
        return 0
    (keys, values) = prefix.layer(0)
    assert tuple(keys[0, :, 0].tolist()) == tokens[: prefix.length]
    assert torch.equal(values, -keys)
    return prefix.length


@given(TEXTS, TEXTS)
def test_the_longest_shared_beginning_is_found_in_whole_blocks(known: list[tuple[int, ...]], asked: list[tuple[int, ...]]) -> None:
    cache = PrefixCache(10**4)
    for tokens in known:
        cache.add(MINE, tokens, layers(tokens))
    for tokens in asked:
        assert found(cache, tokens) == max((shared(tokens[:-1], k) for k in known), default=0) // BLOCK * BLOCK
        assert found(cache, tokens, ANOTHERS) == found(cache, tokens, (MINE[0], "v2")) == 0


@given(TEXTS, st.integers(0, 5))
def test_no_more_blocks_are_kept_than_fit_and_all_of_them_can_be_found(known: list[tuple[int, ...]], room: int) -> None:
    cache = PrefixCache(room * BLOCK_BYTES + BLOCK_BYTES // 2)
    for tokens in known:
        cache.add(MINE, tokens, layers(tokens))
        assert found(cache, (*tokens, 9)) == min(room, len(tokens) // BLOCK) * BLOCK, "what was added last is there"
        assert len(cache) <= room
    beginnings = {k[:end] for k in known for end in range(BLOCK, len(k) + 1, BLOCK)}
    assert len(cache) == sum(found(cache, (*one, 9)) == len(one) for one in beginnings)


def test_texts_share_the_blocks_with_which_both_begin() -> None:
    cache, one, other = PrefixCache(10**4), text(32, 32), text(32, 0, 48)
    cache.add(MINE, one, layers(one))
    cache.add(MINE, other, layers(other))
    assert len(cache) == (32 + 32 + 48) // BLOCK
    assert [found(cache, (*tokens, 1)) for tokens in (one, other)] == [64, 80]


def test_the_longest_unused_goes_first() -> None:
    a, b, c = (text(0, 32), text(0, 0, 32), text(0, 0, 0, 32))
    cache = PrefixCache(4 * BLOCK_BYTES)
    cache.add(MINE, a, layers(a))
    cache.add(MINE, b, layers(b))
    assert found(cache, (*a, 1)) == 32
    cache.add(MINE, c, layers(c))
    assert [found(cache, (*one, 1)) for one in (a, b, c)] == [32, 0, 32]


def test_the_end_of_a_text_goes_before_its_beginning() -> None:
    old, new = text(48), text(0, BLOCK)
    cache = PrefixCache(3 * BLOCK_BYTES)
    cache.add(MINE, old, layers(old))
    cache.add(MINE, new, layers(new))
    assert [found(cache, (*one, 1)) for one in (old, new)] == [32, BLOCK]


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    whole = text(2 * BLOCK)
    cache = PrefixCache(10**4)
    cache.add(MINE, whole, layers(whole))
    assert found(cache, whole) == BLOCK


def test_a_copy_is_kept_and_what_is_found_is_one() -> None:
    whole = text(2 * BLOCK)
    cache, mine = PrefixCache(10**4), layers(whole)
    cache.add(MINE, whole, mine)
    mine[0][0].zero_()
    prefix = cache.longest(MINE, (*whole, 1))
    assert prefix is not None
    prefix.layer(0)[0].zero_()
    assert found(cache, (*whole, 1)) == len(whole)


def test_without_memory_for_it_nothing_is_kept() -> None:
    cache, whole = PrefixCache(1 << 60), text(2 * BLOCK)
    for _ in range(2):
        cache.add(MINE, whole, layers(whole))
        assert len(cache) == found(cache, (*whole, 1)) == 0


def test_a_text_that_cannot_be_copied_leaves_its_places_to_others() -> None:
    cache, one, other = PrefixCache(2 * BLOCK_BYTES), text(2 * BLOCK), text(0, 2 * BLOCK)
    cache.add(MINE, one, layers(one))
    with pytest.raises(RuntimeError):
        cache.add(MINE, other, [(torch.zeros(2, 32, 1), torch.zeros(2, 32, 1))])  # of another shape
    cache.add(MINE, other, layers(other))
    assert found(cache, (*other, 1)) == 32


@pytest.mark.parametrize(("limit", "length"), [(0, 32), (BLOCK_BYTES - 1, 32), (10**4, BLOCK - 1)])
def test_what_cannot_be_found_or_kept_is_not_added(limit: int, length: int) -> None:
    cache = PrefixCache(limit)
    cache.add(MINE, text(length), layers(text(length)))
    assert len(cache) == found(cache, (*text(length), 1)) == 0
