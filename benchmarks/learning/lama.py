"""The LAMA-CKL sets, read from the JSONL files that were published with Train-Attention (Seo, Lee, Yeo 2024).

    <directory>/variant.jsonl                   To-Learn: facts that the authors' models get wrong in both forms
    <directory>/invariant_descriptive.jsonl     Not-to-Forget: facts that they get right, asked as a sentence
    <directory>/invariant_schematic.jsonl       Not-to-Forget: the same, asked as subject, relation, object

Covered: the keys that the protocol needs, any number of rows. Not covered: making sets out of LAMA itself (the authors'
`LAMA_ckl_pipeline.ipynb`), the scores that the rows hold of the authors' models, the set that their token weights learn from.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import AdapterError

FORMS = ("descriptive", "schematic")
"""How a fact is asked: `Libya maintains diplomatic relations with Brazil .`, or `Guess the object. subject is Libya , ...`."""
TEXTS = ("relation_code", "subject", "object", "evidence", *(f"task_{form}" for form in FORMS))
"""Keys of every row that hold a text."""


class UnreadableSet(AdapterError):
    """A file of LAMA-CKL is missing, or not as published."""


@dataclass(frozen=True)
class Row:
    """One fact, and a text from Wikipedia that states it."""

    relation: str
    """Wikidata's code."""
    subject: str
    object: str
    evidence: str
    prompts: Mapping[str, str]
    """Form -> the task up to its object."""


@dataclass(frozen=True)
class LamaCkl:
    """Both sets of the benchmark."""

    form: str
    to_learn: tuple[Row, ...]
    not_to_forget: tuple[Row, ...]


def read_lama(directory: Path, form: str = "descriptive", most: int | None = None) -> LamaCkl:
    """Both sets; most: only so many rows of each file, the first ones.

    Raises:
        UnreadableSet: a file is missing or not as published, the form does not exist; names file, line and key.
    """
    if form not in FORMS:
        raise UnreadableSet(f"there is no form {form!r}; there are {', '.join(FORMS)}")
    known = read_rows(directory / f"invariant_{form}.jsonl", invariant=True, most=most)
    return LamaCkl(form, read_rows(directory / "variant.jsonl", invariant=False, most=most), known)


def read_rows(path: Path, invariant: bool, most: int | None = None) -> tuple[Row, ...]:
    """The rows of one file, all of which must be of the given kind.

    Raises:
        UnreadableSet: see `read_lama`.
    """
    if not path.is_file():
        raise UnreadableSet(f"there is no file {path}; LAMA-CKL is data/LAMA_ckl of github.com/ybseo-academy/TAALM")
    lines = path.read_text("utf-8").split("\n")  # not splitlines: texts may hold separators that JSON leaves as they are
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:most]
    if not numbered:
        raise UnreadableSet(f"{path} has no rows")
    return tuple(_row(line, f"{path}, line {number}", invariant) for number, line in numbered)


def _row(line: str, place: str, invariant: bool) -> Row:
    values = _values(line, place)
    if values["invariant"] is not invariant:
        raise UnreadableSet(f"{place}: the key 'invariant' is {values['invariant']!r}, and in this file must be {invariant}")
    prompts = {form: _before_object(values[f"task_{form}"], values["object"], f"{place}, key 'task_{form}'") for form in FORMS}
    return Row(values["relation_code"], values["subject"], values["object"], values["evidence"], prompts)


def _values(line: str, place: str) -> dict[str, Any]:
    """The line's keys, of which all that are needed are there."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UnreadableSet(f"{place} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UnreadableSet(f"{place} is not a JSON object")
    if missing := [key for key in (*TEXTS, "invariant") if key not in values]:
        raise UnreadableSet(f"{place} lacks the key {', '.join(map(repr, missing))}")
    if wrong := [key for key in TEXTS if not isinstance(values[key], str) or not values[key].strip()]:
        raise UnreadableSet(f"{place}: the key {', '.join(map(repr, wrong))} must hold a text")
    return values


def _before_object(task: str, answer: str, place: str) -> str:
    """The task up to the last place where the object stands as words of its own."""
    found = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", task)]
    if not found or not task[: found[-1]].strip():
        raise UnreadableSet(f"{place}: the object {answer!r} must stand in the task, after something else")
    return task[: found[-1]].rstrip()
