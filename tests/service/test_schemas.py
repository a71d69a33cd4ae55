"""What a body may hold."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.schemas import GenerateIn, LearnIn, RollbackIn, ScoreIn

NOT_TEXT = ["", "   \n\t", "\u2003", "a\0b", "\ud800", "half \udfff character"]


@pytest.mark.parametrize("text", NOT_TEXT)
def test_a_document_without_text_in_it_is_refused_in_either_form(text: str) -> None:
    for body in ({"text": text}, {"documents": [{"text": "fine"}, {"text": text}]}):
        with pytest.raises(ValidationError):
            LearnIn.model_validate(body)
    with pytest.raises(ValidationError):
        ScoreIn(text=text)


@given(st.text(st.characters(codec=None, categories=None), max_size=40))
def test_a_text_is_accepted_exactly_if_it_can_be_stored_and_says_something(text: str) -> None:
    good = bool(text.strip()) and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
    try:
        ScoreIn(text=text)
    except ValidationError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "documents": [{"text": "b"}]},
        {"text": None, "documents": None},
        {"documents": []},
        {"documents": [{"text": "a"}] * 1001},
        {"documents": [{"text": "a"}], "id": "x"},
        {"documents": [{"text": "a", "wait": 1}]},
        {"documents": [{}]},
        {"documents": ["a"]},
        {"text": 5},
        {"text": ["a"]},
        {"text": "a", "foo": 1},
        {"text": "a", "wait": -1},
        {"text": "a", "wait": 601},
        {"text": "a", "wait": float("nan")},
        {"text": "a", "wait": float("inf")},
        {"text": "a", "id": "a b"},
        {"text": "a", "id": ""},
        {"text": "a", "id": "../../etc"},
        {"text": "a", "id": "x" * 129},
        {"text": "a", "id": "a\n"},
        {"text": "a", "id": "\u00e9"},
        {"text": "a", "id": 7},
        {"text": "a", "namespace": 7},
        {"text": "a", "metadata": []},
        {"text": "a", "metadata": {"a": float("nan")}},
        {"text": "a", "metadata": {"a": float("inf")}},
        {"text": "a", "metadata": {"a": "\ud800"}},
        {"text": "a", "metadata": {"\ud800": 1}},
        {"text": "a", "metadata": {"a": "\u00e9" * 10_000}},
    ],
)
def test_a_learn_body_with_anything_odd_in_it_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LearnIn.model_validate(body)


def test_metadata_nested_too_deep_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"a": nested}
    with pytest.raises((ValidationError, RecursionError)):
        LearnIn.model_validate({"text": "a", "metadata": nested})


def test_both_forms_of_a_learn_body_list_their_documents() -> None:
    one = LearnIn(text="a", id="x", metadata={"by": "me"}).listed()
    [several] = [LearnIn.model_validate({"documents": [{"text": "a", "id": "x", "metadata": {"by": "me"}}]}).listed()]
    assert one == several


def test_a_null_text_beside_documents_is_the_same_as_none() -> None:
    assert len(LearnIn.model_validate({"text": None, "documents": [{"text": "a"}]}).listed()) == 1


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.floats() | st.text(max_size=5), max_size=3))
def test_metadata_that_is_accepted_can_be_answered_as_json(metadata: dict[str, Any]) -> None:
    try:
        accepted = LearnIn(text="a", metadata=metadata)
    except ValidationError:
        return
    assert json.dumps(accepted.metadata, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": None},
        {"prompt": 5},
        {"prompt": "\ud800"},
        {"temperature": -1},
        {"temperature": 1e9},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 2},
        {"top_p": -0.5},
        {"top_p": float("nan")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": -5},
        {"max_new_tokens": 10**12},
        {"max_new_tokens": "many"},
        {"max_new_tokens": True},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 0.5},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"stop": [5]},
        {"stream": "yes"},
        {"version": 1},
        {"namespace": ""},
        {"explian": True},
    ],
)
def test_a_generate_body_with_anything_absurd_in_it_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerateIn.model_validate({"prompt": "a"} | wrong)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert GenerateIn(prompt="a", stop="x").stop == ["x"]


@pytest.mark.parametrize("body", [{}, {"to": 1}, {"to": "v0", "expect": "v1"}, {"to": "v0", "expected": ""}])
def test_a_rollback_body_with_anything_odd_in_it_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RollbackIn.model_validate(body)
