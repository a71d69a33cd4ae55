"""The report: Markdown tables of everything that was measured, and the plots beside them.

Covered: rendering, from outcomes alone. Not covered: conclusions; those are for people to draw.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.learning.ablations import ABLATIONS
from benchmarks.learning.methods import METHODS, RIVALS
from benchmarks.learning.plan import TUNING_SEED, Plan, spread
from benchmarks.learning.plots import plot_cost, plot_curves, plot_frontier
from benchmarks.learning.protocol import Outcome
from benchmarks.learning.results import Results

K = TypeVar("K")
Column = tuple[str, Callable[[Outcome], float | None], int]
"""Title, value of one outcome, decimals."""
COLUMNS: tuple[Column, ...] = (
    ("TL", lambda o: o.last.TL, 3),
    ("NF", lambda o: o.last.NF, 3),
    ("TL+NF", lambda o: o.last.TL + o.last.NF, 3),
    ("TL at once", lambda o: o.at_once, 3),
    ("object first", lambda o: o.object_first, 3),
    ("shuffled", lambda o: o.shuffled, 3),
    ("KL", lambda o: o.last.kl, 4),
    ("perplexity", lambda o: o.last.perplexity, 2),
    ("s/doc", lambda o: o.seconds, 3),
    ("F/doc", lambda o: o.seconds / o.forward_seconds, 0),
    ("last/first 50", lambda o: o.growth, 2),
    ("peak MB", lambda o: o.peak_mb, 0),
)


def write_report(plan: Plan, results: Results, directory: Path, name: str, command: str) -> Path:
    """Write `<name>.md` and its plots into `directory`. Returns the Markdown file."""
    outcomes = [o for o in results.all() if (o.run.model, o.run.world) == (plan.model, plan.world)]
    parts = [f"# Learning benchmark: {name}", f"    {command}", _legend(outcomes)]
    streams = [o for o in outcomes if o.run.kind == "facts" and not o.run.switch and o.run.seed != TUNING_SEED]
    for count in sorted({o.run.documents for o in streams}):
        chosen = [o for o in streams if o.run.documents == count]
        parts += [
            f"## {count} documents, one at a time",
            _table(chosen),
            _lead(chosen),
            _plots(chosen, directory, f"{name}-{count}"),
        ]
    parts += ["## Several facts in a document, and documents that replace known facts", _kinds(outcomes)]
    if switched := [o for o in outcomes if o.run.switch]:
        parts += ["## Ablations: one switch each", _ablations(switched)]
    parts += ["## How the rivals were tuned", _tuning([o for o in outcomes if o.run.seed == TUNING_SEED])]
    parts += ["## What each method is", "\n".join(f"- **{key}**: {m.source}." for key, m in METHODS.items())]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n")
    return path


def _legend(outcomes: Sequence[Outcome]) -> str:
    base = outcomes[0].base if outcomes else None
    floor = f" Before learning NF is {base.NF:.3f} and the perplexity of held-out text {base.perplexity:.2f}." if base else ""
    return (
        "TL: closed-book accuracy on the facts of all documents, after all of them; greedy, exact match. NF: the same on facts "
        "known before. Shuffled: TL if the answers are shuffled among questions of one kind, which is what knowing only the likely "
        "answers would score. KL: of held-out text from the base model, nats per token. F: one forward pass of the "
        "document, measured in the same run. "
        "Seconds are processor seconds of one thread. Mean over seeds ± half the range." + floor
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    """One row a method, best first."""
    rows = []
    for method, runs in _grouped(outcomes, lambda o: o.run.method):
        marks = ("†" if METHODS[method].reads_documents else "") + ("‡" if METHODS[method].uses_oracle else "")
        rows.append((statistics.fmean(r.last.TL + r.last.NF for r in runs), [f"{method}{marks}", str(len(runs)), *_cells(runs)]))
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0], reverse=True)]
    notes = "† sees the documents when asked. ‡ is told subjects, questions or answers of the documents (oracle)."
    return _markdown(["method", "seeds", *(title for title, _, _ in COLUMNS)], ordered) + f"\n\n{notes}"


def _lead(outcomes: Sequence[Outcome]) -> str:
    """How far infold is ahead of the best that does not see the documents when asked."""
    scores = {
        method: statistics.fmean(r.last.TL + r.last.NF for r in runs) for method, runs in _grouped(outcomes, lambda o: o.run.method)
    }
    rivals = [method for method in scores if method in RIVALS]
    if "infold" not in scores or not rivals:
        return ""
    best = max(rivals, key=lambda method: scores[method])
    lead = scores["infold"] - scores[best]
    return f"Lead of infold in TL + NF over the best rival that sees no documents, {best}: {lead:+.3f}."


def _cells(runs: Sequence[Outcome]) -> list[str]:
    out = []
    for _, value, decimals in COLUMNS:
        found = [v for v in map(value, runs) if v is not None]
        mean, half = spread(found) if found else (0.0, 0.0)
        out.append("" if not found else f"{mean:.{decimals}f}" + (f" ± {half:.{decimals}f}" if len(found) > 1 and half > 0 else ""))
    return out


def _kinds(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for kind in ("several", "moves"):
        for method, runs in _grouped((o for o in outcomes if o.run.kind == kind), lambda o: o.run.method):
            kept = [o.kept for o in runs if o.kept is not None]
            rows.append([kind, method, str(runs[0].run.documents), str(len(runs)), *_cells(runs)[:2]])
            rows[-1].append(f"{statistics.fmean(kept):.3f}" if kept else "")
    return _markdown(["stream", "method", "documents", "seeds", "TL", "NF", "other facts of those who moved"], rows) if rows else ""


def _ablations(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for (documents, switch), runs in sorted(_grouped(outcomes, lambda o: (o.run.documents, o.run.switch)), key=lambda g: g[0][0]):
        cells = _cells(runs)
        rows.append([ABLATIONS[switch].title, str(documents), *cells[:4], cells[8]])
    return _markdown(["switch", "documents", "TL", "NF", "TL+NF", "TL at once", "s/doc"], rows)


def _tuning(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for (method, count), runs in _grouped(outcomes, lambda o: (o.run.method, o.run.documents)):
        for run in sorted(runs, key=lambda o: o.last.TL + o.last.NF, reverse=True):
            knobs = ", ".join(f"{k} {v:g}" for k, v in run.run.knobs.items())
            rows.append([method, str(count), knobs, f"{run.last.TL:.3f}", f"{run.last.NF:.3f}", f"{run.last.TL + run.last.NF:.3f}"])
    return _markdown(["method", "documents", "knobs", "TL", "NF", "TL+NF"], rows) if rows else ""


def _plots(outcomes: Sequence[Outcome], directory: Path, stem: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    for kind, plot in (("curves", plot_curves), ("frontier", plot_frontier), ("cost", plot_cost)):
        plot(outcomes, directory / f"{stem}-{kind}.png")
    return "\n".join(f"![{kind}]({stem}-{kind}.png)" for kind in ("curves", "frontier", "cost"))


def _grouped(outcomes: Iterable[Outcome], key: Callable[[Outcome], K]) -> list[tuple[K, list[Outcome]]]:
    found: dict[K, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(key(outcome), []).append(outcome)
    return list(found.items())


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
