"""The demo model that ships keeps its promises: it loads, knows its world, reads what is new, and chats."""

import json
import random

import pytest
import torch

from adapters.base_model import load_base_model
from adapters.config import TargetConfig, ViewConfig
from adapters.demo import MODEL_PATH
from adapters.demo.evaluate import (
    CLOSED_BOOK_BAR,
    READING_BAR,
    answers_in_context,
    chat,
    closed_book,
    reads,
    several_fact_documents,
    single_fact_documents,
    writes_nothing_else,
)
from adapters.demo.greedy import Greedy
from adapters.demo.pretrain import VIEW_SETTINGS
from adapters.demo.tokenizer import SPECIAL_TOKENS, chat_text
from adapters.demo.world import Fact, World, document
from adapters.doubts import doubts
from adapters.targets import find_targets
from adapters.views import BY_A_SENTENCE, support, template_for, write_views
from adapters.workspace import Workspace

KNOWN_SAMPLE = 200
DOCUMENTS = 60
LARGEST_BYTES = 8_000_000
MADE_FROM_THE_MODEL = {"anchors.safetensors", "curvature.safetensors", "scorer.safetensors"}
MOST_PARAMETERS = 5_000_000
GUESSING = 0.15
"""More than guesses among 30 to 60 objects are right."""
SEVERAL_FACTS_BAR = 0.7
"""Of given questions about documents with several facts; a model that minds no question reaches 0.45."""
WHOLE_DOCUMENTS_BAR = 0.8
"""Of documents with several facts, the share that is turned into exactly the right pairs."""


@pytest.fixture(scope="module")
def greedy() -> Greedy:
    torch.set_num_threads(1)
    return Greedy.load(MODEL_PATH)


@pytest.fixture(scope="module")
def known() -> list[Fact]:
    return random.Random(12).sample(World().known_facts, KNOWN_SAMPLE)


def share(results: list[bool]) -> float:
    return sum(results) / len(results)


def test_the_model_is_small(greedy: Greedy) -> None:
    assert sum(parameter.numel() for parameter in greedy.model.parameters()) <= MOST_PARAMETERS
    shipped = [path for path in MODEL_PATH.iterdir() if path.name not in MADE_FROM_THE_MODEL]
    assert sum(path.stat().st_size for path in shipped) <= LARGEST_BYTES


def test_its_views_of_a_document_give_rise_to_doubts_only_where_that_contradicts_itself() -> None:
    base, rng, world = load_base_model(str(MODEL_PATH), "cpu", "float32"), random.Random(132), World(132, new=24)
    workspace, template, config = Workspace(base, find_targets(base.model, TargetConfig())), template_for(base), ViewConfig()

    def doubted(text: str) -> tuple[str, ...]:
        views = write_views(workspace, template, text, config, 0)
        by = support(workspace, template, views, text, config.plausible)
        return doubts(views, [view for view, found in zip(views, by, strict=True) if found == BY_A_SENTENCE])

    facts = list(world.one_fact_each)
    assert [doubted(document(rng, facts[at : at + 3])) for at in range(0, 24, 3)] == [()] * 8
    [doubt] = doubted("Elsa Quint works as a carpenter. The shops were closed. Elsa Quint works as a baker.")
    assert "carpenter" in doubt
    assert "baker" in doubt


def test_the_model_says_how_it_is_asked_for_views_and_in_chats(greedy: Greedy) -> None:
    settings = json.loads((MODEL_PATH / "infold.json").read_text())
    assert settings == VIEW_SETTINGS
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Mira."},
        {"role": "user", "content": "Where?"},
    ]
    put = greedy.tokenizer.apply_chat_template(
        turns, chat_template=settings["chat_template"], tokenize=False, add_generation_prompt=True
    )
    assert put == "Be brief. Q: Who? A: Mira. Q: Where? A:"


def test_every_encoded_text_starts_with_the_bos_token(greedy: Greedy) -> None:
    ids = greedy.tokenizer("Q: Where was Anna Berg born?")["input_ids"]
    assert ids[0] == greedy.tokenizer.bos_token_id
    assert greedy.tokenizer.bos_token_id not in ids[1:]


def test_special_tokens_have_the_ids_that_the_model_expects(greedy: Greedy) -> None:
    assert greedy.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    config = greedy.model.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("text", ["Zelkan Ottimar, 42 % -- \u00fcber\n\u65e5\u672c", " leading and trailing "])
def test_any_text_survives_the_tokenizer(greedy: Greedy, text: str) -> None:
    assert greedy.tokenizer.decode(greedy.tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_chat_template_writes_what_the_model_was_trained_on(greedy: Greedy) -> None:
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Where was Anna Berg born?"},
        {"role": "assistant", "content": "Oslo."},
    ]
    trained_on = "<s>" + chat_text([("Where was Anna Berg born?", "Oslo.")], "Answer briefly.")
    template = greedy.tokenizer.apply_chat_template
    assert template(messages, tokenize=False) == trained_on
    prompt = template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert trained_on == f"{prompt}Oslo.</s>"


def test_known_facts_are_answered_closed_book(greedy: Greedy, known: list[Fact]) -> None:
    assert share(closed_book(greedy, known)) >= CLOSED_BOOK_BAR


def test_known_facts_are_answered_through_the_chat_template(greedy: Greedy, known: list[Fact]) -> None:
    assert share(chat(greedy, known)) >= CLOSED_BOOK_BAR


def test_new_facts_are_not_known_before_they_are_learned(greedy: Greedy) -> None:
    assert share(closed_book(greedy, World(31, new=100).one_fact_each)) <= GUESSING


def test_the_model_writes_a_right_question_and_answer_about_a_new_document(greedy: Greedy) -> None:
    assert share(reads(greedy, single_fact_documents(DOCUMENTS, seed=41))) >= READING_BAR


def test_the_model_answers_a_given_question_from_a_new_document(greedy: Greedy) -> None:
    assert share(answers_in_context(greedy, single_fact_documents(DOCUMENTS, seed=42))) >= READING_BAR


def test_the_model_answers_what_is_asked_about_a_document_not_what_comes_first_in_it(greedy: Greedy) -> None:
    assert share(answers_in_context(greedy, several_fact_documents(DOCUMENTS // 2, seed=44))) >= SEVERAL_FACTS_BAR


def test_the_model_asks_about_every_fact_of_a_document_in_order_and_ends(greedy: Greedy) -> None:
    assert share(writes_nothing_else(greedy, several_fact_documents(DOCUMENTS // 2, seed=43))) >= WHOLE_DOCUMENTS_BAR
