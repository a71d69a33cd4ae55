"""LAMA-CKL on a tiny model and made-up rows in the published format."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from benchmarks.learning.ground import Ground
from benchmarks.learning.lama import Row, UnreadableSet, read_lama, read_rows
from benchmarks.learning.lama_ckl import (
    Epoch,
    LamaOutcome,
    LamaRun,
    Task,
    as_asked,
    best_epoch,
    cut,
    documents,
    object_accuracy,
    perform,
    tailored,
)
from benchmarks.learning.methods import METHODS
from service.cli import app

NEW = {"Mira Holm": "Oslo", "Zelkan Ottimar": "Bergen", "Anna Berg": "Graz", "Tomas Reed": "Porto"}
KNOWN = {"Lucie Martin": "Ghent", "Jon Vik": "Lund", "Ola Strand": "Turin", "Per Lind": "Lyon"}
Publish = Callable[..., Path]


def record(subject: str, place: str, invariant: bool, /, **changes: Any) -> dict[str, Any]:
    """One published row; changes: other values, None to leave a key out."""
    values = {
        "relation_code": "P19",
        "uuid": subject,
        "task_descriptive": f"{subject} was born in {place} .",
        "task_schematic": f"Guess the object. \n  subject is {subject} , relation is place of birth , object is {place}",
        "subject": subject,
        "relation_label": "place of birth",
        "object": place,
        "evidence": f"As all know, {subject} was born in {place} and left early.",
        "invariant": invariant,
        "scores": {"descriptive": {"llama_7b": 0.0}},
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Factory: a directory of the three files; changes: of the second row of To-Learn."""

    def write(**changes: Any) -> Path:
        new = [record(*pair, False, **(changes if i == 1 else {})) for i, pair in enumerate(NEW.items())]
        known = [record(*pair, True) for pair in KNOWN.items()]
        for name, rows in {"variant": new, "invariant_descriptive": known, "invariant_schematic": known[::-1]}.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", "utf-8")
        return tmp_path

    return write


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that was trained for a moment to know `KNOWN`, and nothing of `NEW`."""
    directory = tmp_path_factory.mktemp("model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    facts = [f"{subject} was born in {place} ." for subject, place in KNOWN.items()]
    bpe.train_from_iterator([*facts, *NEW] * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = [torch.tensor([[1, *tokenizer.encode(fact, add_special_tokens=False)]]) for fact in facts]
    for _ in range(25):
        optimizer.zero_grad()
        sum(model(row, labels=row).loss for row in rows).backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def ground(model_directory: Path, tmp_path: Path) -> Ground:
    return Ground(str(model_directory), tmp_path / "cache")


def test_both_sets_are_read(publish: Publish) -> None:
    lama = read_lama(publish())
    assert [row.object for row in lama.to_learn] == list(NEW.values())
    assert [row.subject for row in lama.not_to_forget] == list(KNOWN)
    assert lama.to_learn[0] == Row(
        "P19",
        "Mira Holm",
        "Oslo",
        "As all know, Mira Holm was born in Oslo and left early.",
        {
            "descriptive": "Mira Holm was born in",
            "schematic": "Guess the object. \n  subject is Mira Holm , relation is place of birth , object is",
        },
    )


def test_each_form_has_its_own_not_to_forget(publish: Publish) -> None:
    assert [row.subject for row in read_lama(publish(), "schematic").not_to_forget] == list(KNOWN)[::-1]


def test_half_of_the_rows_will_do(publish: Publish) -> None:
    lama = read_lama(publish(), most=2)
    assert ([row.subject for row in lama.to_learn], len(lama.not_to_forget)) == (list(NEW)[:2], 2)


@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        ("Zelkan Ottimar is a poet by profession .", "Zelkan Ottimar is a"),
        ("The poet Ottimar is a poet and no poetess .", "The poet Ottimar is a"),
    ],
)
def test_the_prompt_ends_before_the_last_place_of_the_object(publish: Publish, task: str, prompt: str) -> None:
    directory = publish(object="poet", task_descriptive=task, task_schematic="object is poet")
    assert read_lama(directory).to_learn[1].prompts == {"descriptive": prompt, "schematic": "object is"}


def test_a_separator_within_a_text_ends_no_line(publish: Publish) -> None:
    assert read_lama(publish(evidence="One line.\u2028Another.")).to_learn[1].evidence == "One line.\u2028Another."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evidence": None}, r"variant\.jsonl, line 2 lacks the key 'evidence'"),
        ({"object": None, "task_schematic": None}, r"line 2 lacks the key 'object', 'task_schematic'"),
        ({"invariant": None}, "line 2 lacks the key 'invariant'"),
        ({"invariant": True}, "line 2: the key 'invariant' is True, and in this file must be False"),
        ({"subject": 7}, "line 2: the key 'subject' must hold a text"),
        ({"evidence": " "}, "line 2: the key 'evidence' must hold a text"),
        ({"object": "Rome"}, "line 2, key 'task_descriptive': the object 'Rome' must stand in the task"),
        ({"task_schematic": "Bergen"}, "line 2, key 'task_schematic': the object 'Bergen' must stand in the task, after something"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(publish: Publish, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableSet, match=message):
        read_lama(publish(**changes))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "line 1 is not JSON"), ("[]", "line 1 is not a JSON object"), ("\n\n", "no rows")]
)
def test_a_file_that_is_not_as_published_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "variant.jsonl").write_text(text)
    with pytest.raises(UnreadableSet, match=message):
        read_rows(tmp_path / "variant.jsonl", invariant=False)


def test_what_does_not_exist_is_named(publish: Publish) -> None:
    with pytest.raises(UnreadableSet, match="there is no form 'cloze'; there are descriptive, schematic"):
        read_lama(publish(), "cloze")
    directory = publish()
    (directory / "variant.jsonl").unlink()
    with pytest.raises(UnreadableSet, match=r"there is no file .*variant\.jsonl"):
        read_lama(directory)


class Knowing(nn.Module):
    """Finds every next token likeliest, but for some ids, which it never expects."""

    def __init__(self, unknown: set[int]) -> None:
        super().__init__()
        self._unknown = unknown

    def forward(self, ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        following = [[0 if i in self._unknown else i for i in row[1:]] + [0] for row in ids.tolist()]
        return SimpleNamespace(logits=nn.functional.one_hot(torch.tensor(following), 400).float() * attention_mask[..., None])


def test_the_score_is_the_share_of_the_objects_tokens(ground: Ground) -> None:
    b, x = (ground.base.encode(letter)[-1] for letter in "bx")
    prompt = ground.base.encode("xx:")  # each of these letters is a token of its own, and so is the space
    assert len(ground.base.encode("xx: bxxb")) == len(prompt) + 5
    tasks = [Task("xx:", "bxxb"), Task("b: x and x:", "xxxb"), Task("x:", "b"), *[Task("x:", "xx")] * 8]
    assert object_accuracy(Knowing({b}), ground, tasks) == pytest.approx([3 / 5, 4 / 5, 1 / 2, *[1.0] * 8])
    assert object_accuracy(Knowing({x}), ground, tasks) == pytest.approx([3 / 5, 2 / 5, 1, *[1 / 3] * 8])


def test_a_guess_sees_the_true_tokens_before_and_none_after(ground: Ground) -> None:
    tasks = [Task(f"{subject} was born in", place) for subject, place in (KNOWN | NEW).items()]
    expected = []
    for task in tasks:
        row, hits = ground.base.encode(f"{task.prompt} {task.object}"), []
        for end in range(len(ground.base.encode(task.prompt)), len(row)):
            logits = ground.base.model(torch.tensor([row[:end]])).logits
            hits.append(int(logits[0, -1].argmax()) == row[end])
        expected.append(sum(hits) / len(hits))
    assert object_accuracy(ground.base.model, ground, tasks) == pytest.approx(expected)
    assert expected[:4] == [1.0] * 4


def test_best_is_the_first_epoch_with_the_highest_to_learn_whatever_was_forgotten() -> None:
    curve = [
        Epoch(0, 0.0, 1.0, 0.0),
        Epoch(1, 0.2, 0.9, 1.0),
        Epoch(2, 0.3, 0.2, 1.0),
        Epoch(3, 0.3, 0.8, 1.0),
        Epoch(4, 0.1, 1.0, 1.0),
    ]
    assert best_epoch(curve) is curve[2]
    assert best_epoch(curve).total == pytest.approx(0.5)


def run_on(model: Path, data: Path, method: str = "fine-tuning", **changes: Any) -> tuple[LamaOutcome, list[float]]:
    """The outcome, and what progress was reported."""
    seen: list[float] = []
    return perform(LamaRun(str(model), str(data), method, **changes), data / "cache", seen.append), seen


def test_fine_tuning_learns_within_a_few_epochs(publish: Publish, model_directory: Path) -> None:
    outcome, seen = run_on(model_directory, publish(), knobs={"rate": 3e-3, "steps": 15}, epochs=5)
    assert [epoch.epoch for epoch in outcome.curve] == [0, 1, 2, 3, 4, 5]
    assert outcome.curve[0].not_to_forget == 1.0
    assert outcome.best.to_learn > outcome.curve[0].to_learn + 0.3
    assert outcome.best is best_epoch(outcome.curve)
    assert seen == pytest.approx([done / 20 for done in range(1, 21)])
    assert json.loads(json.dumps(asdict(outcome)))["best"]["to_learn"] == outcome.best.to_learn


def test_an_epoch_is_one_step_on_each_document_unless_said_otherwise(publish: Publish, model_directory: Path) -> None:
    assert run_on(model_directory, publish(), epochs=1, rows=1)[0].run.knobs == {"steps": 1}
    assert run_on(model_directory, publish(), epochs=1, rows=1, knobs={"steps": 2})[0].run.knobs == {"steps": 2}
    assert run_on(model_directory, publish(), "base", epochs=1, rows=1)[0].run.knobs == {}


def test_a_method_that_shows_a_document_does_so_only_where_it_has_one(publish: Publish, ground: Ground) -> None:
    lama = read_lama(publish())
    new, known = lama.to_learn[0], lama.not_to_forget[0].prompts["descriptive"]
    for name in ("in-context", "base"):
        method = METHODS[name](ground, {})
        method.learn(documents(lama, ground.base, 512, oracle=True)[0])
        assert (new.evidence in as_asked(method, new.prompts["descriptive"])) is (name == "in-context")
        assert as_asked(method, known) == known


def test_the_command_prints_its_result_as_json_and_nothing_else(publish: Publish, model_directory: Path, tmp_path: Path) -> None:
    """Progress goes to standard error."""
    words = ["bench", "lama-ckl", str(publish()), "--methods", "fine-tuning", "--model", str(model_directory), "--epochs", "1"]
    result = CliRunner().invoke(app, [*words, "--cache", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)
    assert found["run"]["method"] == "fine-tuning"
    assert len(found["curve"]) == 2, "before, and after the one epoch"


def test_tailored_rows_are_all_wrong_or_all_right_before(publish: Publish, ground: Ground) -> None:
    lama = read_lama(publish(object="Ghent", task_descriptive="Lucie Martin was born in Ghent .", task_schematic="object is Ghent"))
    fitting = tailored(lama, ground)
    assert lama.to_learn[1] not in fitting.to_learn
    assert {row.subject for row in fitting.to_learn} <= set(NEW)
    assert fitting.not_to_forget == lama.not_to_forget
    before = [Task(row.prompts["descriptive"], row.object) for row in fitting.to_learn]
    assert set(object_accuracy(ground.base.model, ground, before)) == {0.0}


def test_a_model_that_no_row_fits_is_refused(publish: Publish, ground: Ground) -> None:
    with pytest.raises(UnreadableSet, match="0 of 4 rows of Not-to-Forget all right"):
        tailored(read_lama(publish(), "schematic"), ground)


def test_only_oracle_methods_are_told_what_a_document_teaches(publish: Publish, ground: Ground) -> None:
    lama = read_lama(publish())
    assert not any(step.asked or step.statements for step in documents(lama, ground.base, 512))
    told = documents(lama, ground.base, 512, oracle=True)[0]
    assert (told.asked[0].question, told.asked[0].answer, told.asked[0].subject) == ("Mira Holm was born in", "Oslo", "Mira Holm")
    assert told.object_first == (False,)


def test_long_texts_are_cut_at_the_end(publish: Publish, ground: Ground) -> None:
    lama = read_lama(publish())
    whole = lama.to_learn[0].evidence
    for limit in (5, 9):
        text = documents(lama, ground.base, limit)[0].text
        assert whole.startswith(text)
        assert len(ground.base.encode(text)) <= limit < len(ground.base.encode(whole[: len(text) + 1]))
    assert cut(ground.base, whole, 512) == whole
