"""Names in questions are put as the document spells them, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.spelling import respelled

DOCUMENT = "It rained. Henry Stamper of Kyoto met Ana Ruiz in 1987. Flight BA2490 was late."


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("Where does Henich Skamper live?", "Where does Henry Stamper live?"),
        ("Whom did Henga Stamper meet in 1997?", "Whom did Henry Stamper meet in 1987?"),
        ("Where does Ana Ruizen live?", "Where does Ana Ruiz live?"),
        ("Was flight BA249 late?", "Was flight BA2490 late?"),
        ("Where does Henry Stamper live?", "Where does Henry Stamper live?"),
        ("Who owns Willow Bicycles?", "Who owns Willow Bicycles?"),
        ("Hanry?", "Hanry?"),
        ("", ""),
    ],
)
def test_a_name_is_put_as_the_likest_of_the_document_of_as_many_words(asked: str, meant: str) -> None:
    assert respelled(asked, DOCUMENT) == meant


@given(st.text(), st.text())
def test_any_text_may_come_and_what_is_put_right_is_right(question: str, document: str) -> None:
    once = respelled(question, document)
    assert respelled(once, document) == once


def test_a_question_without_names_stays_as_it_is() -> None:
    assert respelled("Why did it rain so much, said nobody?", DOCUMENT) == "Why did it rain so much, said nobody?"
