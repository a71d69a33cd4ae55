"""The dashboard *Drift*: what learning costs the model, by namespace: KL, canaries, retention, rollbacks.

Covered: what the guard and the canaries measure, and what was done about it. Not covered: how long it takes (`learning.py`).
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from panels import GREEN, HEADLINE, LEARNING, NAMESPACE, ORANGE, RED, THIRD, Panel, board, graph, rate, stat
from shared import KL_TOTAL, served_versions
from shared import drift as drift_from_base

CANARY_FLOOR = 0.9
"""INFOLD_CANARY_FLOOR, by default."""
KL = f'max by (namespace) (infold_drift_kl_nats{{probe="held_out", {NAMESPACE}}})'


def headline() -> list[Panel]:
    """How far it is from the base model, and how far it may go."""
    return [
        drift_from_base(2 * THIRD),
        stat(
            "Budget used",
            "Drift as a share of what the guard allows in all (INFOLD_LEARN__GUARD__KL_TOTAL, 0.5 nats per token). From 80 % on an "
            "alert fires; at 100 % every update is rejected.",
            units.PercentUnit, f"{KL} / {KL_TOTAL}", THIRD, ((None, GREEN), (0.5, ORANGE), (0.8, RED)),
            HEADLINE, "{{namespace}}", "not measured yet",
        ),
    ]  # fmt: skip


def kept() -> list[Panel]:
    """Whether what was known, and what was learned, is still answered."""
    return [
        graph(
            "Canaries",
            "Share of the operator's canaries that the live version answers as it must; 1 without any (`infold canaries add`). "
            "Below INFOLD_CANARY_FLOOR (0.9) the server goes back to the nearest version that answers them. Staying below: none "
            "does; add the canaries again to see which fall, and `remove` those that are wrong.",
            units.PercentUnit, {"{{namespace}}": f"min by (namespace) (infold_canary_accuracy_ratio{{{NAMESPACE}}})"},
            bad=((None, RED), (CANARY_FLOOR, ORANGE), (1, GREEN)), ceiling=1,
        ),
        graph(
            "Retention",
            "Earlier documents, of those asked for the last update, that are still answered. Falling: new documents "
            "overwrite old ones; recall more of them (INFOLD_LEARN__REFLECTION__RECALLED).",
            units.PercentUnit, {"{{namespace}}": f"min by (namespace) (infold_retention_ratio{{{NAMESPACE}}})"},
            bad=((None, RED), (0.5, ORANGE), (0.9, GREEN)), ceiling=1,
        ),
        graph(
            "Drift per hour",
            "How fast drift changes, over half an hour. Steady growth: see how long the budget lasts. A jump: one document; "
            "`infold diff` between the versions before and after names it, `infold forget` takes it back.",
            "suffix:nats/h",
            {"{{namespace}}": f'3600 * max by (namespace) (deriv(infold_drift_kl_nats{{probe="held_out", {NAMESPACE}}}[30m]))'},
        ).min(None),
    ]  # fmt: skip


def done() -> list[Panel]:
    """What was refused, and what was taken back."""
    rollbacks = f"sum by (namespace, reason) (increase(infold_rollbacks_total{{{NAMESPACE}}}[15m]))"
    rejected = rate("infold_updates_total", LEARNING, f'result="rejected", {NAMESPACE}')
    forgotten = rate("infold_updates_total", LEARNING, f'result="forgotten", {NAMESPACE}')
    return [
        graph(
            "Rollbacks in 15 minutes",
            "operator: somebody asked for it. canaries: live canaries fell below the floor, which the guard should have prevented; "
            "the server's log names the version. From three on an alert fires: stop the writers, find the document.",
            units.Short, {"{{namespace}}, {{reason}}": rollbacks}, bad=((1, ORANGE), (3, RED)),
        ),
        graph(
            "Rejected and forgotten per minute",
            "rejected: the guard refused the update; the job's report says why. forgotten: documents taken back on request.",
            units.Short,
            {
                "{{namespace}}, rejected": f"60 * sum by (namespace) ({rejected})",
                "{{namespace}}, forgotten": f"60 * sum by (namespace) ({forgotten})",
            },
        ),
        served_versions(),
    ]  # fmt: skip


def dashboard() -> Dashboard:
    """All rows."""
    rows = {"Headline": headline(), "What is kept": kept(), "What was done": done()}
    return board("infold: Drift", "infold-drift", "What learning costs the model, and what was done about it.", rows)
