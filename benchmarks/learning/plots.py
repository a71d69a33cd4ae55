"""Pictures of a report: the curves, the frontier, the cost.

Covered: PNG files by matplotlib. Not covered: tables (`report.py`).
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.protocol import Outcome

OURS = "#c2410c"
THEIRS = mpl.color_sequences["tab20"]


def plot_curves(outcomes: Sequence[Outcome], path: Path) -> None:
    """TL and NF against the number of documents learned; means over seeds."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (name, runs) in enumerate(_by_method(outcomes).items()):
        at = [mark.documents for mark in runs[0].curve]
        for axes, key in ((left, "TL"), (right, "NF")):
            means = [sum(getattr(run.curve[i], key) for run in runs) / len(runs) for i in range(len(at))]
            axes.plot(at, means, label=name, **_style(name, index))
    _dress(left, "learned: closed-book accuracy on all documents so far", "documents")
    _dress(right, "kept: accuracy on facts known before", "documents")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def plot_frontier(outcomes: Sequence[Outcome], path: Path) -> None:
    """TL against NF after all documents: one point a method, and the seeds as small ones."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, runs) in enumerate(_by_method(outcomes).items()):
        color = _style(name, index)["color"]
        x, y = [r.last.NF for r in runs], [r.last.TL for r in runs]
        axes.scatter(x, y, s=12, color=color, alpha=0.5)
        axes.scatter(sum(x) / len(x), sum(y) / len(y), s=60, color=color)
        axes.annotate(name, (sum(x) / len(x), sum(y) / len(y)), fontsize=8, xytext=(5, 4), textcoords="offset points")
    _dress(axes, f"after {outcomes[0].run.documents} documents", "kept (NF)")
    axes.set_ylabel("learned (TL)")
    axes.set_xlim(-0.02, 1.1)
    figure.savefig(path, dpi=130)


def plot_cost(outcomes: Sequence[Outcome], path: Path) -> None:
    """Cost per document in forward passes of that document."""
    found = {name: sum(r.seconds / r.forward_seconds for r in runs) / len(runs) for name, runs in _by_method(outcomes).items()}
    figure = Figure(figsize=(7, 0.3 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = sorted(found, key=lambda name: found[name], reverse=True)
    axes.barh(names, [found[n] for n in names], color=[OURS if n == "infold" else "#94a3b8" for n in names])
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("median cost of a document, in forward passes of it (F)")
    figure.savefig(path, dpi=130)


def _by_method(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    grouped: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.run.method, []).append(outcome)
    return grouped


def _style(name: str, index: int) -> dict[str, object]:
    if name == "infold":
        return {"color": OURS, "linewidth": 2.5, "zorder": 3}
    return {"color": THEIRS[index % len(THEIRS)], "linewidth": 1.2}


def _dress(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylim(-0.02, 1.04)
    axes.grid(alpha=0.3)
