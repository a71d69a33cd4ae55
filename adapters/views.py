"""Views: what the base model itself writes about a document, and which of it is worth learning.

A causal LM that learns raw text cannot link an object to a subject that comes after it; its own question/answer pairs
can (design, section 1; the same at scale: SEAL, Zweiger et al. 2025). A view is kept when the model answers it right
with the document in context and not without it.

Covered: templates, writing, parsing, the filter. Not covered: judging truth beyond what the model can read.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from adapters.base_model import BaseModel
from adapters.config import ViewConfig
from adapters.errors import InvalidTemplate
from adapters.sampling import continue_rows
from adapters.spelling import WORD, is_name, respelled
from adapters.windows import SENTENCE_END
from adapters.workspace import Workspace

BY_NOTHING, BY_THE_DOCUMENT, BY_A_SENTENCE = 0, 1, 2
"""What bears a view out; the higher, the better."""


@dataclass(frozen=True)
class ViewTemplate:
    """How a model is asked for views: `view_*` in `infold.json` beside the weights."""

    view_prompt: str
    """Text with `{document}`, after which the model goes on with a view."""
    view_prefix: str = "Q:"
    """What a view starts with; the prompt's end holds the first one."""
    view_stop: tuple[str, ...] = ("\n\n", "\nQ:")
    """A view ends at the first of these. Punctuation stays with the view; what starts the next view does not."""
    view_answer: str = " A:"
    """Between the question and the answer."""
    chat: bool = False
    """Whether prompt and questions go through the model's chat template."""
    chat_template: str = ""
    """Jinja: how chats are put to the model, so that they ask in the form in which views were learned; empty: its own template."""

    def __post_init__(self) -> None:
        if "{document}" not in self.view_prompt:
            raise InvalidTemplate("a view prompt must contain {document}")
        if not self.view_prefix or not self.view_answer or not self.view_stop or not all(self.view_stop):
            raise InvalidTemplate("view_prefix, view_answer and view_stop must not be empty")

    @property
    def view_form(self) -> str:
        """A view as it is shown, with `{question}` and `{answer}`."""
        return f"{self.view_prefix} {{question}}{self.view_answer} {{answer}}"

    @staticmethod
    def from_json(text: str) -> "ViewTemplate":
        """Parse `infold.json`.

        Raises:
            InvalidTemplate: not a JSON object, or with unknown keys.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidTemplate(f"the view template is not JSON: {error}") from error
        known = {f.name for f in fields(ViewTemplate)}
        if not isinstance(values, dict) or set(values) - known or "view_prompt" not in values:
            raise InvalidTemplate(f"a view template is an object with view_prompt and of {sorted(known)}")
        stops = values.pop("view_stop", list(ViewTemplate.view_stop))
        texts = [value for key, value in values.items() if key != "chat"]
        if not isinstance(stops, list) or not all(isinstance(t, str) for t in texts + stops):
            raise InvalidTemplate("every key of a view template is a text, but view_stop, a list of texts, and chat")
        return ViewTemplate(**values, view_stop=tuple(stops))


FEW_SHOT = ViewTemplate(
    "Text: The bridge over the Arve was opened in 1931 by the engineer Lucie Martin.\n"
    "Q: Who opened the bridge over the Arve?\nA: Lucie Martin\n\n"
    "Text: Since May the bakery on Hill Street has belonged to Tomas Reed, who also runs the mill.\n"
    "Q: Who owns the bakery on Hill Street?\nA: Tomas Reed\n\n"
    "Text: {document}\nQ:",
    view_answer="\nA:",
)
"""Default for models without a chat template."""

CHAT = ViewTemplate(
    "Write short questions about the text below, each followed by its short answer, one pair per line, in the form "
    "'Q: ... A: ...'. Name people and things in full, so that each question can be understood without the text.\n\n{document}",
    view_stop=("\n",),
    chat=True,
)
"""Default for models with a chat template."""


def template_for(base: BaseModel, override: str | None = None) -> ViewTemplate:
    """The template to use: an override (JSON), `infold.json` beside the weights, or the default for the kind of model."""
    if override is not None:
        return ViewTemplate.from_json(override)
    beside = Path(base.source) / "infold.json"
    if beside.is_file():
        return ViewTemplate.from_json(beside.read_text("utf-8"))
    return CHAT if base.tokenizer.chat_template else FEW_SHOT


@dataclass(frozen=True)
class View:
    """One question about a document, and its answer."""

    question: str
    answer: str

    def prompt(self, base: BaseModel, template: ViewTemplate) -> list[int]:
        """Ids of the question alone, up to where the answer starts."""
        if template.chat:
            return chat_ids(base, self.question)
        return base.encode(f"{template.view_prefix} {self.question}{template.view_answer}")

    def continuation(self, base: BaseModel, template: ViewTemplate) -> list[int]:
        """Ids of the answer as it follows the question."""
        text = self.answer if template.chat else f" {self.answer}"
        ids = list(base.tokenizer.encode(text, add_special_tokens=False))
        return ids + (_end_of_turn(base) if template.chat else [])

    def ids(self, base: BaseModel, template: ViewTemplate) -> list[int]:
        """The view as a text to learn."""
        return self.prompt(base, template) + self.continuation(base, template)


def chat_ids(base: BaseModel, message: str) -> list[int]:
    """Ids of one user message, up to where the assistant speaks."""
    messages = [{"role": "user", "content": message}]
    encoded: Any = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def question_form(base: BaseModel, template: ViewTemplate) -> str:
    """A text with `{question}`, after which the model goes on with the answer in the form in which it learned views."""
    if not template.chat:
        return f"{template.view_prefix} {{question}}{template.view_answer}"
    messages = [{"role": "user", "content": "{question}"}]
    return str(base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _end_of_turn(base: BaseModel) -> list[int]:
    """The id with which the chat template ends the assistant's turn, which need not be the one that ends a text."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    encoded: Any = base.tokenizer.apply_chat_template(messages, return_dict=True)
    return [i for i in encoded["input_ids"] if i in base.stop_ids][-1:]


def prompt_ids(base: BaseModel, template: ViewTemplate, document: str) -> list[int]:
    """Ids after which the model writes views of `document`."""
    text = template.view_prompt.replace("{document}", document)
    return chat_ids(base, text) if template.chat else base.encode(text)


def parse_views(template: ViewTemplate, continuation: str, finished: bool = True) -> list[View]:
    """Split what the model wrote into views. A last one that no stop ends counts only if the model `finished` by itself."""
    text = continuation if template.chat else template.view_prefix + continuation
    views: list[View] = []
    while text.lstrip().startswith(template.view_prefix):
        body = text.lstrip()[len(template.view_prefix) :]
        at, stop = min(((body.find(s), s) for s in template.view_stop if s in body), default=(len(body), ""))
        end = at + len(stop) if len(stop.strip()) == 1 else at  # punctuation belongs to the answer
        question, separator, answer = body[:end].partition(template.view_answer)
        if separator and question.strip() and answer.strip(" .\n") and (stop or finished):
            views.append(View(question.strip(), answer.strip()))
        text = body[end:]
    return views


def sentences(document: str) -> list[str]:
    """The document's sentences and lines, as far as punctuation tells. An abbreviation makes one too many, which harms nothing."""
    return [found for found in (part.strip() for part in SENTENCE_END.split(document)) if WORD.search(found)]


def _twice(sentence: str) -> str:
    """The second time, a causal LM knows what it could not know the first time (measured: .96 of sentences read right for .50)."""
    return f"{sentence} {sentence}"


def write_views(workspace: Workspace, template: ViewTemplate, document: str, config: ViewConfig, seed: int) -> list[View]:
    """Let the base model write views: of the document, once greedily and else sampled; and of each of its sentences, greedily, so
    that none is passed over. Each view is returned once, those of the whole document first.

    The base weights must be installed. A row may hold several views; the order is the model's.
    """
    base = workspace.base
    alone = sentences(document)
    texts = [document] * config.count + ([_twice(text) for text in alone] if len(alone) > 1 else [])
    temperatures = [config.temperature if 0 < row < config.count else 0.0 for row in range(len(texts))]
    ends = base.stop_ids | set(base.start)
    generator = torch.Generator(base.device).manual_seed(seed)
    prompts = [prompt_ids(base, template, text) for text in texts]
    rows = continue_rows(workspace, prompts, config.max_new_tokens, temperatures, ends, generator)
    finished = [len(row) < config.max_new_tokens for row in rows]
    views = [v for row, end in zip(rows, finished, strict=True) for v in parse_views(template, base.decode(row), end)]
    return list(dict.fromkeys(views))


@dataclass(frozen=True)
class Judged:
    """How greedy decoding would answer a question."""

    right: bool
    """It writes the answer: each of its tokens is the likeliest after those before."""
    likely: float
    """Probability of the least likely token that was judged."""
    first: int
    """The likeliest first token of an answer."""
    first_likely: float
    """Its probability."""


def judge_views(workspace: Workspace, template: ViewTemplate, views: list[View]) -> list[Judged]:
    """How each view is answered closed-book at the weights installed; `likely` is that of its answer. One forward pass."""
    prompts = [view.prompt(workspace.base, template) for view in views]
    answers = [view.continuation(workspace.base, template) for view in views]
    return _judge(workspace, prompts, [[]] * len(views), answers)


def borne_out(workspace: Workspace, template: ViewTemplate, views: list[View], document: str, plausible: float) -> list[bool]:
    """Which views the document bears out, one for each question. One forward pass."""
    return one_for_each_question(views, support(workspace, template, views, document, plausible))


def respelled_views(views: list[View], document: str) -> list[View]:
    """Views whose answer stands in the document and whose question does not, with the names that it may mean (`spelling.py`)."""
    answered = [view for view in views if view.answer.rstrip(".").lower() in document.lower()]
    found = [View(respelled(view.question, document), view.answer) for view in answered]
    return [view for view in dict.fromkeys(found) if view not in answered]


def one_for_each_question(views: list[View], supported: Sequence[int]) -> list[bool]:
    """Of views that answer one question differently, one is kept, and a sentence's word goes before the document's."""
    best: dict[str, tuple[int, int]] = {}  # question -> its support, and which view (the first counts most)
    for i, (view, by) in enumerate(zip(views, supported, strict=True)):
        if by:
            best[view.question] = max((by, -i), best.get(view.question, (0, 0)))
    kept = {-place for _, place in best.values()}
    return [i in kept for i in range(len(views))]


def support(workspace: Workspace, template: ViewTemplate, views: list[View], document: str, plausible: float) -> list[int]:
    """What bears each view out: its answer is read right, and no token of it is less likely than `plausible`, after the document or
    after the one sentence of it that says most of what the view says, said twice.

    The second part refuses sampled views that ask about somebody whom the document does not name. One forward pass.
    """
    base = workspace.base
    lead = template.view_prefix if template.chat else ""
    plain = base.tokenizer.encode
    alone = sentences(document)
    asked = [(i, text) for i, view in enumerate(views) for text in (document, *_saying(view, alone))]
    questions = [list(plain(f"{lead} {views[i].question}{template.view_answer}", add_special_tokens=False)) for i, _ in asked]
    answers = [list(plain(f" {views[i].answer}", add_special_tokens=False)) for i, _ in asked]
    judged = _judge(workspace, [prompt_ids(base, template, text) for _, text in asked], questions, answers)
    by = [BY_NOTHING] * len(views)
    for (i, text), found in zip(asked, judged, strict=True):
        if found.right and found.likely >= plausible and names_stand_in(views[i], document):
            by[i] = max(by[i], BY_THE_DOCUMENT if text == document else BY_A_SENTENCE)
    return by


def _saying(view: View, alone: list[str]) -> list[str]:
    """The sentence that shares most words with a view, twice, if it names all that the view names; else nothing."""
    said = {word.lower() for word in WORD.findall(f"{view.question} {view.answer}")}
    naming = [text for text in alone if names_stand_in(view, text)]
    return [_twice(max(naming, key=lambda text: len(said & {word.lower() for word in WORD.findall(text)})))] if naming else []


def names_stand_in(view: View, document: str) -> bool:
    """Whether every name and number of a view (words with a capital or a digit, those in a row together; not the question's
    first word) stands in the document.

    A model that misreads an unknown name may be sure of a wrong one; where nouns are capitalised too, this costs some good views.
    """
    said = f" {' '.join(WORD.findall(document)).lower()} "
    return all(f" {name} " in said for name in _names(WORD.findall(view.question)[1:]) + _names(WORD.findall(view.answer)))


def _names(words: list[str]) -> list[str]:
    """Runs of words with a capital or a digit, in lower case."""
    runs = itertools.groupby(words, key=is_name)
    return [" ".join(run).lower() for named, run in runs if named]


@torch.no_grad()
def _judge(workspace: Workspace, contexts: list[list[int]], questions: list[list[int]], answers: list[list[int]]) -> list[Judged]:
    """Of each context + question + answer; `likely` is that of question and answer. One forward pass."""
    if not answers:
        return []
    batch = workspace.batch([c + q + a for c, q, a in zip(contexts, questions, answers, strict=True)])
    logp = workspace.logits(batch)[:, :-1].float().log_softmax(-1)
    likely = logp.gather(-1, batch.ids[:, 1:, None])[..., 0].exp().tolist()
    peak = logp.max(-1)
    best, heights = peak.indices.tolist(), peak.values.exp().tolist()
    out = []
    for row, (c, q, a) in enumerate(zip(contexts, questions, answers, strict=True)):
        start, middle, end = len(c) - 1, len(c) + len(q) - 1, len(c) + len(q) + len(a) - 1
        out.append(Judged(best[row][middle:end] == a, min(likely[row][start:end]), best[row][middle], heights[row][middle]))
    return out
