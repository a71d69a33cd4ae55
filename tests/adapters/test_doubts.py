"""What speaks against learning from a document: answers that say nothing, questions that are answered in two ways."""

import pytest

from adapters.doubts import doubts
from adapters.views import View

WHERE = "Where does Mira Holm live?"


def view(answer: str, question: str = WHERE) -> View:
    return View(question, answer)


def test_what_is_said_once_and_says_something_is_not_doubted() -> None:
    views = [view("Oslo."), view("Oslo.", "In which city does Mira Holm live?"), view("a baker.", "What is Mira Holm?")]
    assert doubts(views, views) == ()
    assert doubts([], []) == ()


@pytest.mark.parametrize("answer", ["Mira Holm.", "mira holm", "Holm", "?", "..."])
def test_an_answer_that_says_no_more_than_its_question_is_doubted_and_named(answer: str) -> None:
    [doubt] = doubts([view(answer)], [])
    assert WHERE in doubt
    assert f'"{answer}"' in doubt


@pytest.mark.parametrize("answer", ["Holmby.", "Mir", "Mira live", "Mira Holm's house"])
def test_only_whole_words_in_a_row_are_the_questions_own(answer: str) -> None:
    assert doubts([view(answer)], []) == ()


def test_a_question_with_two_answers_is_doubted_once() -> None:
    said = [view("Oslo."), view("Bergen."), view("Lund."), view("a baker.", "What is Mira Holm?")]
    assert doubts(said[:1], said) == (f'the document answers "{WHERE}" with "Oslo." and with "Bergen."',)


@pytest.mark.parametrize(("one", "other"), [("Oslo.", "Oslo"), ("Oslo", "oslo."), ("soup", "lentil soup."), ("old Oslo", "Oslo")])
def test_an_answer_that_is_a_part_of_another_contradicts_it_not(one: str, other: str) -> None:
    assert doubts([], [view(one), view(other)]) == ()
