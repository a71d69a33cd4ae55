"""Outcomes on disk: one JSON line a run, so that a report that was interrupted goes on where it stopped.

    <directory>/results.jsonl     one `Outcome` a line, in the order in which runs ended

A line is appended whole; what a crash left half-written is skipped, and its run done again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.learning.protocol import Mark, Outcome, Run


class Results:
    """The outcomes in a directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "results.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, Outcome] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                outcome = _outcome(json.loads(line))
            except json.JSONDecodeError:
                continue
            self._found[_key(outcome.run)] = outcome

    def add(self, outcome: Outcome) -> None:
        """Keep one more."""
        self._found[_key(outcome.run)] = outcome
        whole = not self._path.exists() or self._path.read_text()[-1:] in ("", "\n")
        with self._path.open("a") as file:
            file.write(("" if whole else "\n") + json.dumps(asdict(outcome)) + "\n")

    def of(self, run: Run) -> Outcome | None:
        """What came out of a run, if it was done."""
        return self._found.get(_key(run))

    def all(self) -> list[Outcome]:
        """Every outcome."""
        return list(self._found.values())


def _key(run: Run) -> str:
    return json.dumps(asdict(run), sort_keys=True)


def _outcome(values: Mapping[str, Any]) -> Outcome:
    curve = tuple(Mark(**mark) for mark in values["curve"])
    run = Run(**{**values["run"], "marks": tuple(values["run"]["marks"])})
    return Outcome(**{**values, "run": run, "base": Mark(**values["base"]), "curve": curve})
