"""Panels that several dashboards show: the two headlines, learning's objective, what ended how, which version answers.

Covered: their queries and thresholds, at the server's default settings. Not covered: where they stand (each dashboard's own file).
"""

from grafana_foundation_sdk.models import units
from panels import (
    GREEN,
    HALF,
    HEADLINE,
    LEARNING,
    NAMESPACE,
    ORANGE,
    PLAIN,
    RED,
    THIRD,
    Graph,
    Stat,
    Table,
    graph,
    quantiles,
    rate,
    stat,
    table,
)

MEDIAN = 1.5
"""Seconds that a short document may take to be live, on a server that has nothing else to do: the objective of the median."""
LIVE = 5.0
"""Seconds within which `SHARE` of all documents are live: the objective that is alerted on (`../prometheus/alerts.yml`)."""
SHARE = 0.95
LATE = 1 - SHARE
"""The error budget."""
KL_TOTAL = 0.5
"""INFOLD_LEARN__GUARD__KL_TOTAL, by default."""
LIVE_SECONDS = "infold_learn_to_live_seconds"


def update_latency(width: int = HALF) -> Graph:
    """The first headline."""
    return graph(
        "Update latency",
        "From accepting a document to answering from it (learn-to-live). A short document has 1.5 s in the median, and 95 % of all "
        "5 s. p99 far above the median: documents wait in the queue. All of them high: see which stage is slow (dashboard "
        "Learning); fewer views (INFOLD_LEARN__VIEWS__COUNT) or fewer concurrent requests buy speed.",
        units.Seconds,
        quantiles(LIVE_SECONDS, 0.5, 0.95, 0.99, window=LEARNING, where=NAMESPACE),
        width, ((MEDIAN, ORANGE), (LIVE, RED)), height=HEADLINE,
    )  # fmt: skip


def drift(width: int = HALF) -> Graph:
    """The second."""
    return graph(
        "Drift from the base model",
        "KL of what is served from the base model, per token of held-out text. Near the budget "
        "(INFOLD_LEARN__GUARD__KL_TOTAL, 0.5) the guard rejects every update: roll back to a version before the jump, forget the "
        "document that made it, or raise the budget if the answers to old questions are still right.",
        "suffix:nats",
        {"{{namespace}}": f'max by (namespace) (infold_drift_kl_nats{{probe="held_out", {NAMESPACE}}})'},
        width, ((KL_TOTAL / 2, ORANGE), (KL_TOTAL, RED)), height=HEADLINE,
    )  # fmt: skip


def late(window: str) -> str:
    """Share of the documents of this window that were live too late, by namespace."""
    within = rate(f"{LIVE_SECONDS}_bucket", window, f'le="{LIVE}", {NAMESPACE}')
    return f"1 - sum by (namespace) ({within}) / sum by (namespace) ({rate(f'{LIVE_SECONDS}_count', window, NAMESPACE)})"


def live_in_time(width: int) -> Stat:
    """The objective, over the time shown."""
    within = f'sum(increase({LIVE_SECONDS}_bucket{{le="{LIVE}", {NAMESPACE}}}[$__range]))'
    return stat(
        "Live within 5 s",
        "Share of the documents learned in the time shown that answered within 5 s; the objective is 95 %. Low with a good median: "
        "a few long documents, or bursts that wait in the queue.",
        units.PercentUnit, f"{within} / (sum(increase({LIVE_SECONDS}_count{{{NAMESPACE}}}[$__range])) > 0)", width,
        ((None, RED), (0.9, ORANGE), (SHARE, GREEN)), empty="nothing learned",
    )  # fmt: skip


def outcomes(width: int) -> Stat:
    """What became of documents, over the time shown."""
    return stat(
        "Documents",
        "Outcomes over the time shown. unchanged: nothing in it was new. rejected: the guard refused the update, and the "
        "job's report says which number was over budget. failed: the job went to the dead letters. forgotten: taken back.",
        units.Short, f"sum by (result) (increase(infold_updates_total{{{NAMESPACE}}}[$__range]))", width, ((None, PLAIN),),
        legend="{{result}}",
    ).decimals(0)  # fmt: skip


def dead_letters(width: int) -> Stat:
    """Jobs that were given up and are still there."""
    return stat(
        "Dead letters",
        "Jobs given up after all attempts. `infold dead-letters list` says why; mend the cause, then `retry` them, or `drop` them.",
        units.Short, f"sum(max by (namespace) (infold_dead_letters{{{NAMESPACE}}}))", width, ((None, GREEN), (1, RED)),
    )  # fmt: skip


def served_versions(width: int = THIRD, height: int = 8) -> Table:
    """Which version answers."""
    return table(
        "Served versions",
        "The version that each namespace answers from. Not the one you expect: somebody rolled back, or the guard rejects new "
        "updates; `infold versions` lists them all and `infold rollback` chooses another.",
        units.Short, f"infold_weight_version_info{{{NAMESPACE}}} == 1", ("namespace", "version", "instance"), width, height,
    )  # fmt: skip
