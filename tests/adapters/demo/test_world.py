"""Contracts of the demo model's made-up world and of its training texts. No model is loaded here."""

import itertools
import random
import re

import pytest

from adapters.demo import names, words
from adapters.demo.corpus import POLISH, Corpus
from adapters.demo.relations import KINDS, OF_KIND, RELATIONS
from adapters.demo.tokenizer import EOS, SPECIAL_TOKENS
from adapters.demo.world import Fact, World, answer, document, fillers, qa, question, statement

SAMPLE = 300
RELATION_KEYS = sorted(RELATIONS)
ANNA = Fact("Anna Berg", "born", "Oslo")


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


def test_there_are_four_kinds_and_at_least_eight_relations() -> None:
    assert len(KINDS) == 4
    assert len(RELATIONS) >= 8
    assert all(len(OF_KIND[kind]) >= 2 for kind in KINDS)


@pytest.mark.parametrize("key", RELATION_KEYS)
def test_a_relation_has_six_forms_and_two_with_the_object_first(key: str) -> None:
    forms = RELATIONS[key].forms
    assert len(set(forms)) >= 6
    assert len(RELATIONS[key].object_first) >= 2
    assert all(form.count("{s}") == form.count("{o}") == 1 and form.endswith(".") for form in forms)


@pytest.mark.parametrize("key", RELATION_KEYS)
def test_a_relation_has_thirty_to_sixty_different_objects(key: str) -> None:
    objects = RELATIONS[key].objects
    assert 30 <= len(objects) == len(set(objects)) <= 60
    assert all(0 < len(text.split()) <= 2 for text in objects)


def test_no_two_relations_share_a_form_or_a_question() -> None:
    forms = [form for relation in RELATIONS.values() for form in relation.forms]
    questions = [text for relation in RELATIONS.values() for text in (relation.question, relation.paraphrase)]
    assert len(set(forms)) == len(forms)
    assert len(set(questions)) == len(questions)


def test_fillers_are_many_and_name_nothing_of_the_world(rng: random.Random) -> None:
    assert len(set(words.FILLERS)) >= 20
    parts = {
        *words.FIRST_NAMES,
        *words.LAST_NAMES,
        *words.COMPANY_STEMS,
        *words.CITIES,
        *words.FIRMS,
        *words.RIVERS,
    }
    for sentence in fillers(rng, len(words.FILLERS)):
        assert not parts & set(re.findall(r"\w+", sentence))


def test_at_least_three_thousand_facts_are_known_and_none_twice() -> None:
    known = World().known_facts
    assert len(known) >= 3000
    assert len({(fact.subject, fact.relation) for fact in known}) == len(known)
    assert {fact.relation for fact in known} == set(RELATIONS)


def test_objects_come_from_the_list_of_their_relation() -> None:
    world = World(3)
    assert all(fact.object in RELATIONS[fact.relation].objects for fact in world.known_facts + world.new_facts)


def test_every_world_knows_the_same_facts() -> None:
    assert World(1).known_facts == World(2).known_facts
    assert World(1, known=100).known_facts == World(2).known_facts[:100]


def test_new_facts_depend_on_the_seed_alone() -> None:
    assert World(5).new_facts == World(5).new_facts
    assert World(5).one_fact_each == World(5).one_fact_each
    assert World(5).new_facts != World(6).new_facts


@pytest.mark.parametrize("seed", range(5))
def test_new_subjects_are_never_known_ones(seed: int) -> None:
    world = World(seed)
    known, new = {fact.subject for fact in world.known_facts}, {fact.subject for fact in world.new_facts}
    assert not known & new
    assert len(new) == world.new


def test_a_new_subject_has_every_relation_of_its_kind_once() -> None:
    by_subject: dict[str, list[str]] = {}
    for fact in World(4).new_facts:
        by_subject.setdefault(fact.subject, []).append(fact.relation)
    kinds = [tuple(relation.key for relation in OF_KIND[kind]) for kind in KINDS]
    assert all(tuple(relations) in kinds for relations in by_subject.values())


def test_a_stream_has_one_fact_of_each_new_subject() -> None:
    world = World(4, new=50)
    stream = world.one_fact_each
    assert len(stream) == len({fact.subject for fact in stream}) == 50
    assert set(stream) <= set(world.new_facts)


@pytest.mark.parametrize(("share", "listed"), [(0.0, True), (1.0, False)])
def test_the_share_of_made_up_names_is_respected(share: float, listed: bool) -> None:
    everything = {name for kind in KINDS for name in names.listed_names(kind, reserved=True)}
    facts = World(8, new=60, made_up=share).one_fact_each
    assert {fact.subject in everything for fact in facts} == {listed}


def test_a_world_may_have_more_subjects_than_the_lists_have_names() -> None:
    listed = sum(len(names.listed_names(kind, reserved=True)) for kind in KINDS)
    assert len(World(1, new=listed + 500).one_fact_each) == listed + 500


@pytest.mark.parametrize("wrong", [{"new": -1}, {"known": -1}, {"made_up": 1.5}])
def test_a_world_refuses_senseless_counts(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a world needs counts|made_up is a share"):
        World(**wrong)  # type: ignore[arg-type]


def test_a_statement_names_its_subject_and_object(rng: random.Random) -> None:
    for fact in World(2).new_facts[:SAMPLE]:
        text = statement(rng, fact)
        assert fact.subject in text
        assert fact.object in text


def test_a_document_states_its_facts_in_their_order(rng: random.Random) -> None:
    facts = World(2).one_fact_each
    for index in range(0, SAMPLE, 3):
        text = document(rng, facts[index : index + 3])
        places = [text.index(fact.subject) for fact in facts[index : index + 3]]
        assert places == sorted(places)
        assert all(fact.object in text for fact in facts[index : index + 3])


def test_a_document_with_one_fact_has_one_to_three_fillers(rng: random.Random) -> None:
    counts = {document(rng, [ANNA], forms=["{s} was born in {o}."]).count(". ") for _ in range(SAMPLE)}
    assert counts == {1, 2, 3}


def test_a_document_can_do_without_filler(rng: random.Random) -> None:
    assert document(rng, [ANNA], 0, forms=["{s} was born in {o}."]) == "Anna Berg was born in Oslo."


def test_questions_and_answers_read_as_documented() -> None:
    assert question(ANNA) == "Where was Anna Berg born?"
    assert question(ANNA, paraphrase=True) == "What is the birthplace of Anna Berg?"
    assert answer(ANNA) == "Oslo."
    assert qa(ANNA) == "Q: Where was Anna Berg born? A: Oslo."


def test_training_texts_depend_on_the_seed_alone() -> None:
    first, again, other = (Corpus(seed) for seed in (1, 1, 2))
    texts = [next(first) for _ in range(50)]
    assert texts == [next(again) for _ in range(50)]
    assert texts != [next(other) for _ in range(50)]


def test_training_texts_never_say_a_reserved_name() -> None:
    reserved = [name for kind in KINDS for name in names.listed_names(kind, reserved=True)]
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, reserved)) + r")\b")
    corpus = Corpus(1, POLISH)
    assert not any(pattern.search(str(next(corpus))) for _ in range(1000))


def test_a_document_that_is_read_never_repeats_what_is_known() -> None:
    known = set(World().known_facts)
    corpus = Corpus(1)
    assert not any(fact in known for _ in range(1000) for fact in corpus.read_facts())


def test_reading_asks_about_every_fact_and_then_ends() -> None:
    corpus = Corpus(1)
    for _ in range(SAMPLE):
        text = corpus.reading()
        assert text.startswith("News: ")
        assert text.endswith(f".{EOS}")
        assert 1 <= text.count(" Q: ") == text.count(" A: ") <= 3


def test_the_first_stage_learns_every_text_whole() -> None:
    assert not any(text.given for text in itertools.islice(Corpus(1), SAMPLE))


def test_a_given_question_bears_no_loss_but_its_answer_does() -> None:
    corpus = Corpus(1, POLISH)
    for _ in range(SAMPLE):
        text = corpus.asked()
        assert re.fullmatch(r"News: .+ Q: .+\? A:", text.given)
        assert re.fullmatch(r" .+\.", text.learned)
        assert text.learned.removesuffix(".") in text.given


def test_special_tokens_keep_their_ids() -> None:
    assert SPECIAL_TOKENS[:3] == ("<pad>", "<s>", "</s>")
