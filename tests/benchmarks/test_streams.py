"""Streams: what they teach, what they leave alone, and the control that only knows likely answers."""

from pathlib import Path

import pytest

from benchmarks.learning.streams import KINDS, Stream, facts, moves, several, shuffled
from benchmarks.learning.worlds import DemoWorld, open_world

WORLD = DemoWorld()
TRUE = {(WORLD.question(fact), fact.object) for fact in WORLD.known}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_depends_on_its_seed_alone(kind: str) -> None:
    assert KINDS[kind](WORLD, 3, 20, 10) == KINDS[kind](WORLD, 3, 20, 10)
    assert KINDS[kind](WORLD, 3, 20, 10) != KINDS[kind](WORLD, 4, 20, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_states_what_is_asked_of_it(kind: str) -> None:
    for step in KINDS[kind](WORLD, 5, 30, 10).steps:
        for asked, statement, first in zip(step.asked, step.statements, step.object_first, strict=True):
            assert statement in step.text
            assert asked.subject in asked.question
            assert (statement.index(asked.answer) < statement.index(asked.subject)) == first


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_stay_is_known_and_no_document_touches_it(kind: str) -> None:
    stream = KINDS[kind](WORLD, 5, 30, 50)
    assert len(stream.known) == 50
    taught = {asked.question for asked in stream.asked}
    for asked in (*stream.known, *stream.kept):
        assert (asked.question, asked.answer) in TRUE
        assert asked.question not in taught
    moved = {asked.subject for asked in stream.asked}
    assert not moved & {asked.subject for asked in stream.known}


def test_a_stream_of_facts_teaches_one_new_fact_a_document_each_about_another_subject() -> None:
    stream = facts(WORLD, 5, 60, 10)
    assert all(len(step.asked) == 1 for step in stream.steps)
    assert len({asked.subject for asked in stream.asked}) == 60
    assert not {(asked.question, asked.answer) for asked in stream.asked} & TRUE
    assert {first for step in stream.steps for first in step.object_first} == {True, False}
    assert stream.kept == ()


def test_documents_with_several_facts_are_about_one_subject_and_about_several_by_turns() -> None:
    stream = several(WORLD, 5, 40, 10)
    for number, step in enumerate(stream.steps):
        assert len(step.asked) in (2, 3)
        assert len({asked.subject for asked in step.asked}) == (len(step.asked) if number % 2 else 1)
        assert len({asked.question for asked in step.asked}) == len(step.asked)


def test_a_move_replaces_a_known_answer_and_the_subject_has_other_facts_to_keep() -> None:
    stream = moves(WORLD, 5, 30, 10)
    known = dict(TRUE)
    assert all(known[asked.question] != asked.answer for asked in stream.asked)
    assert stream.kept
    assert {asked.subject for asked in stream.kept} <= {asked.subject for asked in stream.asked}


def test_shuffled_answers_are_wrong_ones_of_the_same_kind_of_question() -> None:
    stream: Stream = facts(WORLD, 5, 100, 10)
    right = {asked.question: asked.answer for asked in stream.asked}
    control = shuffled(stream, 0)
    assert len(control) > 70
    assert all(right[asked.question] != asked.answer for asked in control)
    assert {asked.answer for asked in control} <= set(right.values())


def test_a_world_that_is_not_there_is_refused_with_what_to_give(tmp_path: Path) -> None:
    assert isinstance(open_world("demo"), DemoWorld)
    with pytest.raises(FileNotFoundError, match=r"demo.*world\.py"):
        open_world(str(tmp_path))
