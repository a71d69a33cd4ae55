"""Tokens to text as they come."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adapters.demo import MODEL_PATH
from service.text_stream import TextStream

TOKENIZER: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(MODEL_PATH))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40)


def pieces(ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    stream, found = TextStream(TOKENIZER, stop), []
    for token in ids:
        found.append(stream.push(token))
        if stream.stopped:
            return found
    return [*found, stream.flush()]


def encoded(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


@given(TEXTS)
def test_the_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(encoded(text))) == text


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_the_pieces_of_any_tokens_join_to_what_the_tokenizer_decodes(ids: list[int]) -> None:
    whole = TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces(ids)) == whole


@given(TEXTS, st.lists(st.text("abc ", min_size=1, max_size=3), max_size=3))
def test_a_stop_string_cuts_the_text_where_the_first_one_to_end_began(text: str, stop: list[str]) -> None:
    text = text[:20] + "".join(stop) + text[20:]
    ended = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(ended)[1]] if ended else text
    assert "".join(pieces(encoded(text), stop)) == expected


def test_the_stop_string_that_ended_first_counts_also_within_one_token() -> None:
    [token] = encoded(" the")
    assert pieces([token], ["h", " the"]) == [" t"]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_part_of_a_stop_string_is_let_out_before_it_is_known_not_to_be_one(text: str, stop: list[str]) -> None:
    out = ""
    for piece in pieces(encoded(text), stop):
        out += piece
        assert not any(s in out for s in stop)


def test_a_character_of_several_tokens_comes_whole() -> None:
    ids = encoded("\U0001f980")
    assert len(ids) > 1
    found = pieces(ids)
    assert found[: len(ids) - 1] == [""] * (len(ids) - 1)
    assert "".join(found) == "\U0001f980"


def test_an_unfinished_character_is_let_out_at_the_end_as_the_tokenizer_writes_it() -> None:
    ids = encoded("crab \U0001f980")[:-1]
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


def test_spaces_between_words_are_kept() -> None:
    text = "  two  spaces , and a comma ."
    assert "".join(pieces(encoded(text))) == text


def test_text_comes_as_soon_as_it_is_certain() -> None:
    ids = encoded("one two three")
    assert all(pieces(ids)[: len(ids)])


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_special_tokens_are_left_out(stop: tuple[str, ...]) -> None:
    ids = [*encoded("one"), int(TOKENIZER.eos_token_id), *encoded(" two")]
    assert "".join(pieces(ids, stop)) == "one two"


def test_a_long_text_takes_time_in_proportion_to_its_length() -> None:
    decoded = 0

    class Counting:
        def decode(self, ids: list[int], **options: bool) -> str:
            nonlocal decoded
            decoded += len(ids)
            return str(TOKENIZER.decode(ids, **options))

    stream, ids = TextStream(Counting(), ("zzz",)), encoded("a word " * 300)  # type: ignore[arg-type]
    for token in ids:
        stream.push(token)
    assert decoded < 20 * len(ids)


def test_unfinished_characters_without_end_take_time_in_proportion_too() -> None:
    token, decoded = encoded("\U0001f980")[0], 0

    class Counting:
        def decode(self, ids: list[int], **options: bool) -> str:
            nonlocal decoded
            decoded += len(ids)
            return str(TOKENIZER.decode(ids, **options))

    stream = TextStream(Counting())  # type: ignore[arg-type]
    for _ in range(400):
        stream.push(token)
    assert decoded < 50 * 400
