"""The dashboard *Learning*: where a document's time goes, what waits, what was refused, and whether steps do as computed.

Covered: the way of documents into the weights. Not covered: what that does to what was known before (`drift.py`).
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from panels import (
    GREEN,
    HALF,
    HEADLINE,
    LEARNING,
    NAMESPACE,
    ORANGE,
    RED,
    Panel,
    board,
    graph,
    quantile,
    quantiles,
    rate,
    stat,
)
from shared import LATE, LIVE_SECONDS, MEDIAN, dead_letters, late, live_in_time, outcomes, update_latency

STAGES = "infold_update_operation_duration_seconds"
KEPT = "infold_tokens_kept_ratio"


def headline() -> list[Panel]:
    """How long documents take, and where."""
    p50 = f"histogram_quantile(0.5, sum by (le) (increase({LIVE_SECONDS}_bucket{{{NAMESPACE}}}[$__range]))) >= 0"
    return [
        update_latency(),
        graph(
            "Update stages, p95",
            "Seconds per document in each stage. view grows with the document and the number of views, fold with its iterations, "
            "guard with the probes and canaries; publish is the disk. All of them grow while requests decode.",
            units.Seconds, {"{{operation}}": quantile(0.95, STAGES, "le, operation", LEARNING)}, HALF,
            ((1, ORANGE), (5, RED)), height=HEADLINE,
        ),
        stat(
            "Learn-to-live, median",
            "Over the time shown; the objective is 1.5 s for a short document. Above it: see whether documents wait (oldest job) "
            "or a stage is slow (update stages).",
            units.Seconds, p50, 5, ((None, GREEN), (MEDIAN, ORANGE), (2 * MEDIAN, RED)), empty="nothing learned",
        ),
        live_in_time(5),
        outcomes(11),
        dead_letters(3),
    ]  # fmt: skip


def objective() -> list[Panel]:
    """The error budget, and what eats it."""
    return [
        graph(
            "Burn of the error budget",
            "How many times faster than the objective allows (5 % of documents later than 5 s) documents are late. 1 uses the "
            "budget up exactly. Alerts: 6 over half an hour and six hours, 14.4 over five minutes and an hour (docs/runbook.md).",
            "suffix:x", {"{{namespace}} 5m": _burn("5m"), "{{namespace}} 1h": _burn("1h")}, HALF, ((6, ORANGE), (14.4, RED)),
        ),
        graph(
            "The learner's time",
            "Seconds of work per second, by stage. Near one, all in all: the learner is busy all the time, and the queue grows if "
            "more comes. Fewer views, raw text (INFOLD_LEARN__VIEWS__COUNT=0), a GPU, or `infold worker` on a device of its own.",
            units.PercentUnit, {"{{operation}}": f"sum by (operation) ({rate(f'{STAGES}_sum', LEARNING)})"}, HALF, stacked=True,
        ),
    ]  # fmt: skip


def queue() -> list[Panel]:
    """What waits, and for how long."""
    return [
        graph(
            "Queue depth",
            "Jobs queued or running. Growing without end: documents come faster than one learner learns them; slow the "
            "writers down. At INFOLD_MAX_QUEUE (1,000) /learn answers 429.",
            units.Short, {"{{namespace}}": f"max by (namespace) (infold_queue_depth{{{NAMESPACE}}})"},
            bad=((500, ORANGE), (1000, RED)),
        ),
        graph(
            "Oldest job",
            "Age of the oldest job that has not ended. Growing while the queue is short: one job hangs or is delivered again "
            "and again, see the server's log.",
            units.Seconds, {"{{namespace}}": f"max by (namespace) (infold_queue_oldest_age_seconds{{{NAMESPACE}}})"},
            bad=((30, ORANGE), (300, RED)),
        ),
        graph(
            "Writers",
            "Processes that hold the lease of each namespace. 0: nobody learns it, what is posted waits; start a worker, or wait "
            "until its model is measured. 2 for longer than a scrape: two installations are scraped as one job.",
            units.Short, {"{{namespace}}": f"sum by (namespace) (infold_writer{{{NAMESPACE}}})"},
            bad=((None, RED), (1, GREEN), (2, RED)),
        ),
    ]  # fmt: skip


def outcome() -> list[Panel]:
    """What became of documents."""
    updates = f"sum by (result) ({rate('infold_updates_total', LEARNING, NAMESPACE)})"
    rejected = rate("infold_updates_total", LEARNING, f'result="rejected", {NAMESPACE}')
    tried = rate("infold_updates_total", LEARNING, f'result=~"succeeded|unchanged|rejected", {NAMESPACE}')
    return [
        graph(
            "Documents per minute",
            "Outcomes of updates. Many unchanged: the model knows them already, or writes no view of them. Any failed: see the "
            "dead letters and the server's log.",
            units.Short, {"{{result}}": f"60 * {updates}"},
        ),
        graph(
            "Rejected",
            "Share of documents that the guard refused. GET /learn/{job_id} names the number that was over budget: drift (see the "
            "dashboard Drift), retention, or a canary that the document contradicts. Half of them for long: the budget is used up.",
            units.PercentUnit, {"{{namespace}}": f"sum by (namespace) ({rejected}) / sum by (namespace) ({tried}) >= 0"},
            bad=((0.2, ORANGE), (0.5, RED)), ceiling=1,
        ),
        graph(
            "Dead letters",
            "Jobs given up after INFOLD_MAX_ATTEMPTS (3), still to be looked at: `infold dead-letters list`, `retry`, `drop`.",
            units.Short, {"{{namespace}}": f"max by (namespace) (infold_dead_letters{{{NAMESPACE}}})"}, bad=((1, RED),),
        ),
    ]  # fmt: skip


def method() -> list[Panel]:
    """Whether the steps do what they were computed to do."""
    mean = f"sum({rate(f'{KEPT}_sum', LEARNING)}) / sum({rate(f'{KEPT}_count', LEARNING)}) >= 0"
    return [
        graph(
            "Tokens kept",
            "Tokens with a weight, of those read. About one: the scorer is missing (/readyz says so) and everything is learned, "
            "so earlier knowledge goes; `infold train-scorer` makes one. Near zero: nothing in the documents seems worth learning.",
            units.PercentUnit, quantiles(KEPT, 0.5, 0.95, window=LEARNING) | {"mean": mean}, HALF, ceiling=1,
        ),
        graph(
            "Taylor remainder",
            "|actual - predicted| / |predicted| change of the loss. Above one the quadratic model does not hold: steps are too "
            "long (lower INFOLD_LEARN__FOLD__KL_BUDGET) or the curvature belongs to other text; look at drift and retention.",
            units.Short, quantiles("infold_taylor_remainder_ratio", 0.5, 0.95, window=LEARNING), HALF,
            ((1, ORANGE), (5, RED)),
        ),
    ]  # fmt: skip


def _burn(window: str) -> str:
    return f"({late(window)}) / {LATE:.2f} >= 0"


def dashboard() -> Dashboard:
    """All rows."""
    rows = {
        "Headline": headline(),
        "Objective": objective(),
        "Queue": queue(),
        "Outcome": outcome(),
        "Method": method(),
    }
    return board("infold: Learning", "infold-learning", "How documents get into the weights.", rows)
