"""The report of `infold bench cost`: tables, a picture, and what was measured as JSON.

Covered: rendering. Not covered: conclusions.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.serving.cost import Cost
from benchmarks.serving.per_token import LENGTHS
from benchmarks.serving.report import OURS, markdown
from benchmarks.serving.throughput import Row, ratio
from benchmarks.serving.while_learning import Comparison

_RATIOS = {"tokens_per_second": "tokens per second", "gap": "between tokens", "gap_p99": "99th percentile", "live": "learn to live"}


def write_report(cost: Cost, directory: Path) -> Path:
    """Write `cost.md`, `cost.json` and `cost.png` into `directory`. Returns the Markdown file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cost.json").write_text(json.dumps(cost.to_json(), indent=1) + "\n")
    plot(cost, directory / "cost.png")
    parts = [
        "# Cost",
        f"    {cost.command}",
        "## Of a token, beside the model's own work\n\nMicroseconds a token in texts of so many tokens; the best of five.",
        markdown([["", *map(str, LENGTHS)], *([p.what, *(f"{m:.1f}" for m in p.microseconds)] for p in cost.prices)]),
        "## Of HTTP on top of the engine\n\nA random Llama of 33M parameters, float32: tokens per second of all streams, by turns, "
        "medians; tokenising, events, loopback and the load client are on the same cores.",
        _http(cost.rows),
        "## Of learning on top of serving\n\nThe demo model. Streams of 200 tokens, and documents taught one after another: both "
        "over one alone, medians of rounds that alternate. Learn to live is over learning alone. What is lost to learning in "
        "another server, of which the one that answers knows nothing, is what sharing a machine costs.",
        _beside(cost),
        "![while learning](cost.png)",
    ]
    path = directory / "cost.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def plot(cost: Cost, path: Path) -> None:
    """Throughput and gaps while learning, over those without."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("tokens_per_second", "gap_p99"), strict=True):
        for (name, found), color in zip(_places(cost), (OURS, "#475569", "#a16207", "#7c3aed"), strict=False):
            axes.plot([c.streams for c in found], [c.ratio(key) for c in found], marker="o", color=color, label=f"learning {name}")
        axes.axhline(1, color="#94a3b8", linewidth=0.8)
        axes.set_title(f"{_RATIOS[key]}, over serving alone", fontsize=10)
        axes.set_xlabel("streams")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _http(rows: Sequence[Row]) -> str:
    alone = {row.concurrency: row for row in rows if row.name == "engine alone"}
    lines = [["streams", "engine alone", "through HTTP", "ratio", "HTTP, microseconds a token"]]
    for row in rows:
        if row.name == "engine alone":
            continue
        engine = alone[row.concurrency]
        pairs = zip(row.samples, engine.samples, strict=True)
        extra = statistics.median(1e6 / a.tokens_per_second - 1e6 / b.tokens_per_second for a, b in pairs)
        speeds = (f"{r.tokens_per_second:.0f}" for r in (engine, row))
        lines.append([str(row.concurrency), *speeds, f"{ratio(row, engine):.2f}", f"{extra:.0f}"])
    return markdown(lines)


def _places(cost: Cost) -> list[tuple[str, tuple[Comparison, ...]]]:
    """Where learning went on."""
    found = [
        ("inside the server", cost.inside),
        ("in a worker", cost.elsewhere),
        ("in a worker, its own core", cost.apart),
        ("in another server, its own core", cost.unconnected),
    ]
    return [(name, comparisons) for name, comparisons in found if comparisons]


def _beside(cost: Cost) -> str:
    lines = [["learning", "streams", *_RATIOS.values(), "worst gap, ms, without and with", "learn to live, s, alone and beside"]]
    for name, found in _places(cost):
        lines += [[name, str(c.streams), *(f"{c.ratio(key):.2f}" for key in _RATIOS), *_absolute(c)] for c in found]
    return markdown(lines)


def _absolute(comparison: Comparison) -> tuple[str, str]:
    worst = [1000 * max(phase.gap_worst or 0.0 for phase in phases) for phases in zip(*comparison.rounds, strict=True)]
    beside = statistics.median(both.live or 0.0 for _, both in comparison.rounds)
    return f"{worst[0]:.0f}, {worst[1]:.0f}", f"{comparison.learning.live:.2f}, {beside:.2f}"
