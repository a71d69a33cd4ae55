"""Windows: nothing is lost, nothing is too long, neighbours overlap."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from adapters.base_model import BaseModel
from adapters.errors import EmptyDocument
from adapters.windows import OVERLAP, SENTENCE_END, Window, distinct, windows

pieces = st.sampled_from(["a", " ", "Oslo", " was born in", "é", "日本", "😀", "\n", ".", "  "])
documents = st.lists(pieces, min_size=1, max_size=60).map("".join).filter(str.strip)


@pytest.fixture(scope="module", params=["plain", "trimmed"])
def base(request: pytest.FixtureRequest, make_base: Callable[..., BaseModel]) -> BaseModel:
    """trimmed: offsets of tokens leave out the space that a token starts with, as GPT-2's tokenizer has it."""
    base = make_base()
    if request.param == "trimmed":
        base.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return base


@given(document=documents, size=st.integers(1, 20))
def test_windows_cover_every_character_in_order(base: BaseModel, document: str, size: int) -> None:
    found = windows(base, document, size)
    ids = [base.tokenizer.encode(window.text, add_special_tokens=False)[window.shared :] for window in found]
    assert "".join(map(base.decode, ids)) == document
    assert document.startswith(found[0].text)
    assert document.endswith(found[-1].text)
    assert all(window.text in document for window in found)


@given(document=documents, size=st.integers(8, 24))
def test_no_window_is_longer_than_asked(base: BaseModel, document: str, size: int) -> None:
    """8 is the least that a learner asks for, and more than any character needs."""
    lengths = [len(base.encode(window.text)) - 1 for window in windows(base, document, size)]
    assert max(lengths) <= size


@given(document=documents, size=st.integers(1, 20))
def test_a_character_is_never_cut(base: BaseModel, document: str, size: int) -> None:
    for window in windows(base, document, size):
        assert base.decode(base.encode(window.text)) == window.text


@given(document=documents, size=st.integers(1, 20))
def test_tokens_that_windows_share_are_told_so_that_each_is_counted_once(base: BaseModel, document: str, size: int) -> None:
    tokens: list[int] = []
    for window in windows(base, document, size):
        ids = base.tokenizer.encode(window.text, add_special_tokens=False)
        assert tokens[len(tokens) - window.shared :] == ids[: window.shared]
        tokens += ids[window.shared :]
    assert tokens == base.tokenizer.encode(document, add_special_tokens=False)


@pytest.mark.parametrize("size", [8, 13, 40])
def test_consecutive_windows_share_a_part_of_their_tokens(base: BaseModel, size: int) -> None:
    found = windows(base, "Mira Holm was born in Oslo. " * 30, size)
    assert len(found) > 2
    assert found[0].shared == 0
    assert {window.shared for window in found[1:]} == {size // OVERLAP}


@given(document=documents)
def test_a_short_document_is_its_own_window(base: BaseModel, document: str) -> None:
    assert windows(base, document, 1000) == [Window(document, 0)]


@given(st.text(alphabet=" \t\n\r\u00a0\u3000"))
def test_a_document_of_white_space_is_empty(base: BaseModel, document: str) -> None:
    with pytest.raises(EmptyDocument, match="empty"):
        windows(base, document, 8)


def test_a_single_token_is_learnable_only_after_a_start_token(make_base: Callable[..., BaseModel]) -> None:
    assert windows(make_base(), "a", 8) == [Window("a", 0)]
    with pytest.raises(EmptyDocument, match="no token that follows another"):
        windows(make_base(bos=False), "a", 8)
    assert windows(make_base(bos=False), "ab", 8) == [Window("ab", 0)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("It rained. " * 50_000, "It rained. "),
        ("It rained.\nMira came. It rained. Jon left.", "It rained.\nMira came. Jon left."),
        ("no end of a sentence " * 9, "no end of a sentence " * 9),
        ("\n\n", "\n\n"),
    ],
)
def test_a_sentence_that_comes_again_is_left_out(document: str, expected: str) -> None:
    assert distinct(document) == expected


@given(documents)
def test_leaving_out_what_comes_again_loses_no_sentence(document: str) -> None:
    def sentences(text: str) -> set[str]:
        return {part.strip() for part in SENTENCE_END.split(text) if part.strip()}

    found = distinct(document)
    assert sentences(found) == sentences(document)
    assert distinct(found) == found
