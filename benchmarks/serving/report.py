"""The report: a table and a picture of each sitting, from what was written down of it.

Covered: rendering. Not covered: conclusions; those are for people to draw.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.serving.throughput import Row, Sitting, ratio

OURS = "#c2410c"


def keep(sitting: Sitting, directory: Path) -> None:
    """Write down what was measured, in place of what was before."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"throughput-{sitting.name}.json").write_text(json.dumps(sitting.to_json(), indent=1) + "\n")


def write_report(directory: Path) -> Path:
    """Write `throughput.md` and its pictures from all that was kept in `directory`. Returns the Markdown file."""
    sittings = [Sitting.from_json(json.loads(path.read_text())) for path in sorted(directory.glob("throughput-*.json"))]
    parts = ["# Throughput", _LEGEND]
    for sitting in sittings:
        picture = f"throughput-{sitting.name}.png"
        plot(sitting, directory / picture)
        title = f"## {sitting.dtype}, prompts of {sitting.prompt_tokens} tokens, answers of {sitting.tokens}"
        model = f"{sitting.model}, {sitting.parameters / 1e6:.1f}M parameters; medians of {len(sitting.rows[0].samples)} rounds."
        parts += [title, f"    {sitting.command}", model, _speeds(sitting), _latencies(sitting), f"![throughput]({picture})"]
    path = directory / "throughput.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


_LEGEND = (
    "Tokens per second of all streams together, through HTTP with server-sent events (`generate`: in process). In each round "
    "every row has every load once, the others stopped dead meanwhile; in brackets infold's tokens per second on the same weights "
    "over the row's, the median of what each round says. Adapted: infold on a learned version, vLLM with a LoRA of rank 16. "
    "Every prompt is new, every answer has all its tokens."
)


def plot(sitting: Sitting, path: Path) -> None:
    """Tokens per second against streams."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, weights, rows in _lines(sitting):
        if len(rows) == 1:
            continue
        ours = {"color": OURS, "linewidth": 2.5, "zorder": 3} if name == "infold" else {"linewidth": 1.3}
        style = "-" if weights == "base" else "--"
        axes.plot(
            [r.concurrency for r in rows],
            [r.tokens_per_second for r in rows],
            style,
            marker="o",
            label=f"{name}, {weights}",
            **ours,
        )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at a time")
    axes.set_ylabel("tokens per second")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _speeds(sitting: Sitting) -> str:
    counts = _concurrencies(sitting)
    ours = {(r.weights, r.concurrency): r for r in sitting.rows if r.name == "infold"}
    lines = [["tokens per second", "weights", *(f"{count} at a time" for count in counts)]]
    for name, weights, rows in _lines(sitting):
        cells = dict.fromkeys(counts, "")
        for row in rows:
            cells[row.concurrency] = f"{row.tokens_per_second:.0f}" + (
                "" if name == "infold" else f" ({ratio(ours[weights, row.concurrency], row):.2f})"
            )
        lines.append([name, weights, *cells.values()])
    adapted = [f"{ratio(ours['adapted', count], ours['base', count]):.2f}" for count in counts]
    lines.append(["infold, adapted over base", "", *adapted])
    return markdown(lines)


def _latencies(sitting: Sitting) -> str:
    lines = [["milliseconds", "weights", "streams", "first token", "between tokens", "99th percentile", "failed"]]
    for name, weights, rows in _lines(sitting):
        for row in rows:
            if row.samples[0].first is not None:
                figures = [_median(row, key) for key in ("first", "gap", "gap_p99")]
                shown = [f"{1000 * value:.{0 if value > 0.1 else 1}f}" for value in figures]
                lines.append([name, weights, str(row.concurrency), *shown, str(sum(s.failed for s in row.samples))])
    return markdown(lines)


def _median(row: Row, key: str) -> float:
    return float(statistics.median(getattr(sample, key) for sample in row.samples))


def _lines(sitting: Sitting) -> list[tuple[str, str, list[Row]]]:
    """Rows of one contender together, in the order in which they were measured."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sitting.rows:
        found.setdefault((row.name, row.weights), []).append(row)
    return [(*key, rows) for key, rows in found.items()]


def _concurrencies(sitting: Sitting) -> list[int]:
    return sorted({row.concurrency for row in sitting.rows})


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))
