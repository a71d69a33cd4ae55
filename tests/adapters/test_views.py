"""Views: the template, what is parsed from a continuation, and the judgement of one forward pass."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from adapters.base_model import BaseModel, load_base_model
from adapters.config import FoldConfig, TargetConfig, ViewConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.demo import MODEL_PATH
from adapters.demo.world import World, statement
from adapters.errors import InvalidTemplate
from adapters.fold import Lesson, fold
from adapters.sampling import continue_rows
from adapters.targets import find_targets
from adapters.views import (
    CHAT,
    FEW_SHOT,
    View,
    ViewTemplate,
    borne_out,
    chat_ids,
    judge_views,
    names_stand_in,
    parse_views,
    prompt_ids,
    question_form,
    sentences,
    template_for,
    write_views,
)
from adapters.workspace import Workspace

Measure = Callable[[Workspace], Curvature]
MakeWorkspace = Callable[..., Workspace]
PLAIN = ViewTemplate("News: {document} Q:", view_stop=(".", " Q:"))
DOCUMENT = "Mira Holm was born in Graz."
QUESTION = "Where was Mira Holm born?"
PLACES = ["Oslo", "Bergen", "Lund", "Graz", "Turin", "Lyon", "Porto", "Ghent"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<end>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
"""Ends the assistant's turn with a token that is not the end of a text, as Qwen's, Llama's and Gemma's do."""


@pytest.fixture
def chat_base(base: BaseModel, make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> BaseModel:
    base.model.generation_config.eos_token_id = [2, 3]
    return BaseModel(base.model, make_tokenizer(chat_template=CHAT_TEMPLATE), base.source, base.digest)


@pytest.fixture
def reading(reader: BaseModel, make_workspace: MakeWorkspace) -> Workspace:
    """The workspace of a model that writes and reads views."""
    return make_workspace(reader)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "is an object"),
        ("{}", "is an object"),
        ('{"view_prompt": "{document}", "view_end": "."}', "is an object"),
        ('{"view_prompt": "no place for it"}', "must contain"),
        ('{"view_prompt": "{document}", "view_prefix": ""}', "must not be empty"),
        ('{"view_prompt": "{document}", "view_answer": ""}', "must not be empty"),
        ('{"view_prompt": "{document}", "view_stop": []}', "must not be empty"),
        ('{"view_prompt": "{document}", "view_stop": [""]}', "must not be empty"),
        ('{"view_prompt": "{document}", "view_stop": "."}', "a list of texts"),
        ('{"view_prompt": "{document}", "view_stop": null}', "a list of texts"),
        ('{"view_prompt": 5}', "is a text"),
    ],
)
def test_a_template_that_cannot_work_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidTemplate, match=reason):
        ViewTemplate.from_json(text)


def test_a_template_says_what_it_means_and_the_rest_is_as_documented() -> None:
    template = ViewTemplate.from_json('{"view_prompt": "News: {document} Q:", "view_stop": [".", " Q:"], "chat": false}')
    assert template == PLAIN
    assert template.view_prefix == "Q:"
    assert template.view_answer == " A:"


@pytest.mark.parametrize("template", [FEW_SHOT, CHAT, PLAIN])
def test_a_question_in_its_form_is_put_as_a_view_s_is(template: ViewTemplate, chat_base: BaseModel) -> None:
    put = question_form(chat_base, template).replace("{question}", "Who is Ann?")
    prompt = View("Who is Ann?", "A nurse").prompt(chat_base, template)
    assert chat_base.encode(put) in (prompt, chat_base.start + prompt)  # a chat template may leave the start token out
    shown = template.view_form.replace("{question}", "Who is Ann?").replace("{answer}", "A nurse")
    assert parse_views(template, shown if template.chat else shown.removeprefix(template.view_prefix)) == [
        View("Who is Ann?", "A nurse")
    ]


@pytest.mark.parametrize("template", [FEW_SHOT, CHAT, PLAIN])
def test_what_a_template_asks_for_is_what_it_parses(template: ViewTemplate) -> None:
    first = f"{template.view_prefix} one?{template.view_answer} yes" + template.view_stop[0]
    text = first if template.chat else first.removeprefix(template.view_prefix)
    (view,) = parse_views(template, text)
    assert view.question == "one?"
    assert view.answer.startswith("yes")


@pytest.mark.parametrize(
    ("continuation", "finished", "expected"),
    [
        (" Who? A: Ann. Q: Where? A: Lund.", True, [("Who?", "Ann."), ("Where?", "Lund.")]),
        (" Who? A: Ann Q: Where? A: Lund.", True, [("Who?", "Ann"), ("Where?", "Lund.")]),
        (" Who? A: Ann. Q: Where? A: Lu", False, [("Who?", "Ann.")]),
        (" Who? A: Ann. Q: Where? A: Lu", True, [("Who?", "Ann."), ("Where?", "Lu")]),
        (" Who? A: Ann. And then it rambles on. Q: Where? A: Lund.", True, [("Who?", "Ann.")]),
        (" Who? Q: Where? A: Lund.", True, [("Where?", "Lund.")]),
        (" Who? A:. Q: Where? A: Lund.", True, [("Where?", "Lund.")]),
        (" Who? A: Q: Where? A: Lund.", True, [("Where?", "Lund.")]),
        (" A: Ann.", True, []),
        (" Who?", True, []),
        ("", True, []),
        (" .", True, []),
    ],
)
def test_a_continuation_is_split_into_its_views(continuation: str, finished: bool, expected: list[tuple[str, str]]) -> None:
    assert parse_views(PLAIN, continuation, finished) == [View(*pair) for pair in expected]


def test_punctuation_stays_with_the_answer_and_what_starts_the_next_view_does_not() -> None:
    few_shot = parse_views(FEW_SHOT, " Who?\nA: Ann.\n\nQ: Where?\nA: Lund\nQ: When?\nA: in May")
    assert few_shot == [View("Who?", "Ann."), View("Where?", "Lund"), View("When?", "in May")]


def test_a_chat_model_writes_the_prefix_itself() -> None:
    assert parse_views(CHAT, "Q: Who? A: Ann.\nQ: Where? A: Lund") == [View("Who?", "Ann."), View("Where?", "Lund")]
    assert parse_views(CHAT, "Sure! Here are some questions") == []


@given(st.text(alphabet="Q:A .\nab"), st.booleans(), st.sampled_from([PLAIN, FEW_SHOT, CHAT]))
def test_whatever_the_model_writes_is_parsed_into_whole_views(text: str, finished: bool, template: ViewTemplate) -> None:
    for view in parse_views(template, text, finished):
        assert view.question == view.question.strip() != ""
        assert view.answer == view.answer.strip() != ""
        assert view.question in text
        assert view.answer in text


def test_an_override_goes_before_the_file_and_the_file_before_the_default(base: BaseModel, tmp_path: Path) -> None:
    beside = BaseModel(base.model, base.tokenizer, str(tmp_path), base.digest)
    assert template_for(beside) == FEW_SHOT
    beside.tokenizer.chat_template = CHAT_TEMPLATE
    assert template_for(beside) == CHAT
    (tmp_path / "infold.json").write_text(json.dumps({"view_prompt": "é {document} Q:"}, ensure_ascii=False), "utf-8")
    assert template_for(beside).view_prompt == "é {document} Q:"
    assert template_for(beside, '{"view_prompt": "mine: {document}"}').view_prompt == "mine: {document}"


def test_a_broken_file_beside_the_weights_is_an_error_and_not_the_default(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "infold.json").write_text("{")
    with pytest.raises(InvalidTemplate):
        template_for(BaseModel(base.model, base.tokenizer, str(tmp_path), base.digest))


def test_a_view_to_learn_is_its_prompt_and_its_answer(base: BaseModel) -> None:
    view = View(QUESTION, "Graz.")
    assert view.ids(base, PLAIN) == view.prompt(base, PLAIN) + view.continuation(base, PLAIN)
    assert base.decode(view.ids(base, PLAIN)) == f"Q: {QUESTION} A: Graz."
    assert view.ids(base, PLAIN)[0] == base.tokenizer.bos_token_id


def test_a_prompt_with_braces_in_the_document_is_taken_as_it_is(base: BaseModel) -> None:
    assert base.decode(prompt_ids(base, PLAIN, "{0} {document} {x}")) == "News: {0} {document} {x} Q:"


def test_a_chat_view_is_a_turn_that_ends_as_the_chat_template_ends_it(chat_base: BaseModel) -> None:
    view = View(QUESTION, "Graz.")
    ids = view.ids(chat_base, CHAT)
    assert chat_base.tokenizer.decode(ids) == f"[user]{QUESTION}[assistant]Graz.<end>"
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Graz."}]
    rendered = list(chat_base.tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
    assert rendered[: len(ids)] == ids
    assert ids[-1] != min(chat_base.stop_ids)


def test_a_chat_message_starts_with_no_second_start_token(chat_base: BaseModel) -> None:
    assert chat_base.tokenizer.decode(chat_ids(chat_base, "Hi")) == "[user]Hi[assistant]"


def test_the_greedy_view_comes_first_and_none_comes_twice(reading: Workspace, template: ViewTemplate) -> None:
    config = ViewConfig(count=4, max_new_tokens=20)
    views = write_views(reading, template, DOCUMENT, config, seed=1)
    assert views[0] == View(QUESTION, "Graz.")
    assert len(set(views)) == len(views)
    assert write_views(reading, template, DOCUMENT, ViewConfig(count=1, max_new_tokens=20), seed=2) == views[:1]


def test_views_depend_on_the_seed_and_on_nothing_else(reading: Workspace, template: ViewTemplate) -> None:
    config = ViewConfig(count=6, max_new_tokens=20, temperature=3.0)

    def write(seed: int) -> list[View]:
        torch.rand(3)
        return write_views(reading, template, DOCUMENT, config, seed)

    state = torch.get_rng_state()
    write_views(reading, template, DOCUMENT, config, 7)
    assert torch.equal(torch.get_rng_state(), state), "serving draws from the same generator"
    assert write(1) == write(1)
    assert any(write(seed) != write(1) for seed in range(2, 8))


def test_a_view_cut_short_is_dropped(reading: Workspace, template: ViewTemplate) -> None:
    assert write_views(reading, template, DOCUMENT, ViewConfig(count=1, max_new_tokens=3), seed=0) == []


def greedy(base: BaseModel, prompt: list[int], count: int) -> list[int]:
    out = base.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=[],
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def test_a_view_is_answered_exactly_if_greedy_generation_writes_its_answer(reading: Workspace, template: ViewTemplate) -> None:
    base = reading.base
    questions = [QUESTION, "Where was Anna Berg born?", "Where was Jon Vik?", "Who?"]
    views = [View(question, f"{place}.") for question in questions for place in PLACES]
    for question in questions:
        prompt = View(question, "x").prompt(base, template)
        written = base.decode(greedy(base, prompt, 4)).strip()
        views += [View(question, written)] if written else []
    verdicts = [found.right for found in judge_views(reading, template, views)]
    for view, verdict in zip(views, verdicts, strict=True):
        answer = view.continuation(base, template)
        assert verdict == (greedy(base, view.prompt(base, template), len(answer)) == answer)
    assert {True, False} == set(verdicts)


def test_a_chat_answer_counts_only_with_its_end(chat_base: BaseModel, make_workspace: MakeWorkspace, measure: Measure) -> None:
    workspace = make_workspace(chat_base)
    whole, begun = View("Who?", "Anna Berg"), View("Who?", "Anna")
    prompt, ids = whole.prompt(chat_base, CHAT), whole.ids(chat_base, CHAT)
    required = torch.zeros(1, len(ids) - 1, dtype=torch.bool)
    required[0, len(prompt) - 1 :] = True
    lesson = Lesson(workspace.batch([ids]), required.float(), required)
    assert [found.right for found in judge_views(workspace, CHAT, [whole, begun])] == [False, False]
    config = FoldConfig(iterations=20)
    fold(workspace, lesson, DampedCurvature(measure(workspace), config, chat_base.device), config)
    assert continue_rows(workspace, [prompt], len(ids) - len(prompt), [0.0]) == [ids[len(prompt) :]]
    assert [found.right for found in judge_views(workspace, CHAT, [whole, begun])] == [True, False]


def test_a_judgement_names_the_likeliest_start_of_an_answer_and_how_likely_the_answer_is(
    reading: Workspace, template: ViewTemplate
) -> None:
    base = reading.base
    prompt = View("Who?", "x").prompt(base, template)
    (guess,) = continue_rows(reading, [prompt], 1, [0.0])
    view, other = View("Who?", base.decode(guess).strip()), View("Who?", "Zz")
    assert view.continuation(base, template) == guess
    probability = float(reading.logits(reading.batch([prompt]))[0, -1].softmax(-1).max())
    right, wrong = judge_views(reading, template, [view, other])
    assert right.likely == pytest.approx(probability, rel=1e-4) == wrong.first_likely
    assert (right.right, wrong.right) == (True, False)
    assert [right.first] == guess == [wrong.first]


def test_no_views_need_no_judgement(reading: Workspace, template: ViewTemplate) -> None:
    assert judge_views(reading, template, []) == []
    assert borne_out(reading, template, [], DOCUMENT, 0.05) == []


def test_a_document_bears_out_what_it_says_and_not_what_it_does_not(reading: Workspace, template: ViewTemplate) -> None:
    views = [View(QUESTION, f"{place}.") for place in PLACES]
    assert borne_out(reading, template, views, DOCUMENT, 0.05) == [place == "Graz" for place in PLACES]


def test_an_improbable_question_is_refused_even_if_its_answer_is_what_the_model_would_say(
    reading: Workspace, template: ViewTemplate
) -> None:
    base = reading.base
    question = "Qx zz yy?"
    context = prompt_ids(base, template, DOCUMENT)
    asked = context + base.tokenizer.encode(f" {question}{template.view_answer}", add_special_tokens=False)
    says = base.decode(continue_rows(reading, [asked], 3, [0.0])[0]).removeprefix(" ")
    views = [View(question, says), View(QUESTION, "Graz.")]
    assert borne_out(reading, template, views, DOCUMENT, 0.0) == [names_stand_in(views[0], DOCUMENT), True]
    assert borne_out(reading, template, views, DOCUMENT, 0.05) == [False, True]


def test_judging_together_is_judging_alone(reading: Workspace, template: ViewTemplate) -> None:
    views = [View(QUESTION, "Graz."), View("Who?", "Anna Berg was born in Lund, long ago."), View(QUESTION, "Oslo.")]
    together = judge_views(reading, template, views)
    alone = [judge_views(reading, template, [view])[0] for view in views]
    assert [(found.right, found.first) for found in together] == [(found.right, found.first) for found in alone]
    assert [found.likely for found in together] == pytest.approx([found.likely for found in alone], rel=1e-4)
    borne = [borne_out(reading, template, [view], DOCUMENT, 0.05)[0] for view in views]
    assert borne_out(reading, template, views, DOCUMENT, 0.05) == borne


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two three! Four?", ["One.", "Two three!", "Four?"]),
        ("No end", ["No end"]),
        ("A line\n\nand another, 3.5 m long.", ["A line", "and another, 3.5 m long."]),
        ("... !", []),
    ],
)
def test_sentences_are_cut_after_their_ends_and_at_lines(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_no_sentence_of_a_document_is_passed_over() -> None:
    base = load_base_model(str(MODEL_PATH), "cpu", "float32")
    workspace, template = Workspace(base, find_targets(base.model, TargetConfig())), template_for(base)
    rng = random.Random(3)
    facts = [fact for fact in World(77, new=30, made_up=0.0).one_fact_each if fact.relation in ("born", "lives", "job")][:3]
    document = " ".join(statement(rng, fact) for fact in facts)
    written = write_views(workspace, template, document, ViewConfig(count=1), seed=0)
    assert {fact.subject for fact in facts for view in written if fact.subject in view.question} == {f.subject for f in facts}


def test_a_view_may_only_name_what_the_document_names() -> None:
    document = "Brightwater Labs was founded by Clara Berg in 1931."
    assert names_stand_in(View("Who founded Brightwater Labs?", "Clara Berg."), document)
    assert names_stand_in(View("Who is the founder of Brightwater Labs?", "Clara Berg."), document)
    assert not names_stand_in(View("Who founded Inkwell Brothers?", "Clara Berg."), document)
    assert not names_stand_in(View("When was Brightwater Labs founded?", "In 1932."), document)
