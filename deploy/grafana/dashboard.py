"""The Grafana dashboard as code: `python deploy/grafana/dashboard.py` writes `dashboards/infold.json` beside this file.

Covered: panels, what to do when one looks bad, thresholds at the server's default settings.
Not covered: alerts, and how Grafana finds the file (`provisioning/`).
"""

from pathlib import Path
from typing import TypeVar

from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).parent / "dashboards" / "infold.json"
PROMETHEUS = models.DataSourceRef("prometheus", "prometheus")
NAMESPACE = 'namespace=~"$namespace"'
OURS = 'job="infold"'
"""Every exporter has process metrics; these are the server's."""
LEARNING = "5m"
"""Window of rates over documents, which come seldom; rates over requests use Grafana's own."""
GREEN, ORANGE, RED = "green", "orange", "red"
QUARTER, THIRD, HALF = 6, 8, 12
"""Widths of panels, of 24."""

Steps = tuple[tuple[float | None, str], ...]
Built = TypeVar("Built", Graph, Stat, Table)


def quantile(q: float, histogram: str, by: str = "le", window: str = "$__rate_interval") -> str:
    """Of a histogram; nothing, not NaN, where nothing was observed."""
    return f"histogram_quantile({q}, sum by ({by}) (rate({histogram}_bucket[{window}]))) >= 0"


def quantiles(histogram: str, *qs: float, window: str = "$__rate_interval") -> dict[str, str]:
    """Legend to expression."""
    return {f"p{100 * q:g}": quantile(q, histogram, window=window) for q in qs}


def after_an_update(gauge: str) -> str:
    """A gauge that means something once this process has published a version."""
    return f'{gauge} and on (job, instance) infold_updates_total{{result="succeeded"}} > 0'


def query(expr: str, legend: str, ref: str) -> Dataquery:
    """A query over the time shown."""
    return Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(PROMETHEUS)


def thresholds(steps: Steps) -> ThresholdsConfig:
    """Colours from these values on."""
    colours = [models.Threshold(value, colour) for value, colour in steps]
    return ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(colours)


def described(panel: Built, title: str, advice: str, unit: str, width: int, height: int) -> Built:
    """What every panel has."""
    return panel.title(title).description(advice).unit(unit).span(width).height(height).datasource(PROMETHEUS)


def graph(
    title: str, advice: str, unit: str, queries: dict[str, str], width: int = THIRD, bad: Steps = (), ceiling: float | None = None
) -> Graph:
    """Lines over time; `bad` values are drawn as dashed lines."""
    panel = described(Graph(), title, advice, unit, width, 8).min(0).line_width(1).fill_opacity(8)
    panel.show_points(common.VisibilityMode.AUTO).span_nulls(60_000)
    panel.tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    legend = VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(common.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"]))
    if ceiling is not None:
        panel.max(ceiling)
    if bad:
        panel.thresholds(thresholds(((None, GREEN), *bad)))
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    for ref, (name, expr) in zip("ABCDEF", queries.items(), strict=False):
        panel.with_target(query(expr, name, ref))
    return panel


def stat(
    title: str, advice: str, unit: str, expr: str, width: int, steps: Steps, height: int = 4, legend: str = "", empty: str = "-"
) -> Stat:
    """The value now, coloured by `steps`; `legend` where there are several."""
    panel = described(Stat(), title, advice, unit, width, height).thresholds(thresholds(steps)).no_value(empty)
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME if legend else common.BigValueTextMode.VALUE)
    panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(query(expr, legend, "A").instant())


def headline() -> list[Stat]:
    """Is what is posted learned, and how fast, in five numbers."""
    p50 = "histogram_quantile(0.5, sum by (le) (increase(infold_learn_to_live_seconds_bucket[$__range]))) >= 0"
    within = 'sum(increase(infold_learn_to_live_seconds_bucket{le="1.5"}[$__range]))'
    of = "(sum(increase(infold_learn_to_live_seconds_count[$__range])) > 0)"
    reached = ((None, RED), (0.9, ORANGE), (0.95, GREEN))
    redis = stat(
        "Redis",
        "1 while the job queue answers. Down: /learn answers 503 and /generate goes on; start Redis or mend the network, "
        "and learning resumes where it stopped.",
        units.Short, "min(infold_redis_up)", 3, ((None, RED), (1, GREEN)),
    )  # fmt: skip
    redis.mappings([models.ValueMap({"0": models.ValueMappingResult("down"), "1": models.ValueMappingResult("up")})])
    return [
        stat(
            "Learn-to-live, median",
            "From accepting a document to answering from it, over the time shown; the objective is 1.5 s for a short document. "
            "Above it: see whether documents wait (queue) or a stage is slow (update stages); fewer views "
            "(INFOLD_LEARN__VIEWS__COUNT) or fewer concurrent requests buy speed.",
            units.Seconds, p50, 5, ((None, GREEN), (1.5, ORANGE), (2.5, RED)), empty="nothing learned",
        ),
        stat(
            "Live within 1.5 s",
            "Share of learned documents that answered within 1.5 s. Low with a good median: a few long documents, or bursts "
            "that wait in the queue.",
            units.PercentUnit, f"{within} / {of}", 5, reached, empty="nothing learned",
        ),
        stat(
            "Documents",
            "Outcomes over the time shown. unchanged: nothing in it was new. rejected: the guard refused the update, and the "
            "job's report says which number was over budget. failed: the job went to the dead letters.",
            units.Short, "sum by (result) (increase(infold_updates_total[$__range]))", 8, ((None, "text"),), legend="{{result}}",
        ).decimals(0),
        stat(
            "Dead letters",
            "Jobs given up after all attempts. GET /learn/{job_id} has the error; mend its cause and post the document again.",
            units.Short, f"sum(infold_dead_letters{{{NAMESPACE}}})", 3, ((None, GREEN), (1, RED)),
        ),
        redis,
    ]  # fmt: skip


def learning() -> list[Graph]:
    """The same over time, and the queue."""
    return [
        graph(
            "Learn-to-live",
            "From accepting a document to answering from it. The median has the objective (1.5 s); a p99 far above it is "
            "mostly waiting in the queue.",
            units.Seconds, quantiles("infold_learn_to_live_seconds", 0.5, 0.95, 0.99, window=LEARNING),
            bad=((1.5, ORANGE), (2.5, RED)),
        ),
        graph(
            "Documents per minute",
            "Outcomes of updates. Many rejected: documents contradict each other or the drift budget is used up, see Drift. "
            "Any failed: see the dead letters and the server's log.",
            units.Short, {"{{result}}": f"60 * sum by (result) (rate(infold_updates_total[{LEARNING}]))"},
        ),
        graph(
            "Update stages, p95",
            "Seconds per document in each stage. view grows with the document and the number of views, fold with its iterations, "
            "guard with the probes; publish is the disk. All of them grow together when requests decode at the same time.",
            units.Seconds,
            {"{{operation}}": quantile(0.95, "infold_update_operation_duration_seconds", "le, operation", LEARNING)},
            bad=((1, ORANGE), (5, RED)),
        ),
        graph(
            "Queue depth",
            "Jobs queued or running. Growing without end: documents come faster than one learner learns them; slow the "
            "writers down. At INFOLD_MAX_QUEUE (1,000) /learn answers 429.",
            units.Short, {"{{namespace}}": f"sum by (namespace) (infold_queue_depth{{{NAMESPACE}}})"}, HALF,
            bad=((500, ORANGE), (1000, RED)),
        ),
        graph(
            "Oldest job",
            "Age of the oldest job that has not ended. Growing while the queue is short: one job hangs or is delivered again "
            "and again, see the server's log.",
            units.Seconds, {"{{namespace}}": f"max by (namespace) (infold_queue_oldest_age_seconds{{{NAMESPACE}}})"}, HALF,
            bad=((30, ORANGE), (300, RED)),
        ),
    ]  # fmt: skip


def drift() -> list[Graph | Table]:
    """What learning costs the model, and which version answers."""
    kept = "infold_tokens_kept_ratio"
    mean = f"sum(rate({kept}_sum[{LEARNING}])) / sum(rate({kept}_count[{LEARNING}])) >= 0"
    versions = described(
        Table(), "Served versions",
        "The version that each namespace answers from. Not the one you expect: somebody rolled back, or the guard rejects new "
        "updates; `infold versions` lists them all and `infold rollback` chooses another.",
        units.Short, THIRD, 8,
    )  # fmt: skip
    served = query(f"infold_weight_version_info{{{NAMESPACE}}} == 1", "", "A").instant().format(PromQueryFormat.TABLE)
    hidden, order = ("Time", "__name__", "Value", "job"), {"namespace": 0, "version": 1, "instance": 2}
    versions.with_target(served).with_transformation(
        models.DataTransformerConfig("organize", options={"excludeByName": dict.fromkeys(hidden, True), "indexByName": order})
    )
    return [
        graph(
            "Drift from the base model",
            "KL of the published version from the base model, per token of held-out text. Near the budget "
            "(INFOLD_LEARN__GUARD__KL_TOTAL, 0.5) the guard rejects every update: roll back to a version before the jump, or "
            "raise the budget if the answers to old questions are still right.",
            "suffix:nats", {"{{probe}}": after_an_update("infold_drift_kl_nats")}, bad=((0.25, ORANGE), (0.5, RED)),
        ),
        graph(
            "Retention",
            "Earlier documents, of those recalled for the last update, that are still answered. Falling: new documents "
            "overwrite old ones; recall more of them (INFOLD_LEARN__REFLECTION__RECALLED).",
            units.PercentUnit, {"retention": after_an_update("infold_retention_ratio")}, ceiling=1,
        ),
        versions,
        graph(
            "Tokens kept",
            "Tokens with a weight, of those read. About one: the scorer is missing (/readyz says so) and everything is learned, "
            "so earlier knowledge goes; `infold train-scorer` makes one. Near zero: nothing in the documents seems worth learning.",
            units.PercentUnit, quantiles(kept, 0.5, 0.95, window=LEARNING) | {"mean": mean}, ceiling=1,
        ),
        graph(
            "Taylor remainder",
            "|actual - predicted| / |predicted| change of the loss. Above one the quadratic model does not hold: steps are too "
            "long (lower INFOLD_LEARN__FOLD__KL_BUDGET) or the curvature belongs to other text; look at drift and retention.",
            units.Short, quantiles("infold_taylor_remainder_ratio", 0.5, 0.95, window=LEARNING), bad=((1, ORANGE), (5, RED)),
        ),
        graph(
            "Resident versions",
            "Versions in memory beside the base model. At INFOLD_RESIDENT_VERSIONS (4) the longest unused is dropped, and a "
            "request for it waits until it is rebuilt from disk; raise it if clients pin many versions and memory allows.",
            units.Short, {"versions": "max(infold_resident_versions)"},
        ),
    ]  # fmt: skip


def serving() -> list[Graph]:
    """How requests fare while it learns."""
    finished = "sum by (finish_reason) (rate(infold_requests_total[$__rate_interval]))"
    return [
        graph(
            "Time to first token",
            "From accepting a request to its first token. High with requests waiting: all slots are taken. High without: "
            "long prompts, or a quantum of learning (decode stalls).",
            units.Seconds, quantiles("infold_time_to_first_token_seconds", 0.5, 0.99), bad=((1, ORANGE), (5, RED)),
        ),
        graph(
            "Between tokens",
            "From one token of a request to its next. Rises with the batch (running requests), with prompts read beside it, "
            "and with learning (decode stalls).",
            units.Seconds, quantiles("infold_inter_token_latency_seconds", 0.5, 0.99), bad=((0.1, ORANGE), (0.5, RED)),
        ),
        graph(
            "Whole request",
            "From accepting a request to its last token. Grows with the tokens asked for: compare time to first token and between "
            "tokens before blaming the server.",
            units.Seconds, quantiles("infold_e2e_request_latency_seconds", 0.5, 0.99), bad=((10, ORANGE), (60, RED)),
        ),
        graph(
            "Decode stalls",
            "Waits of a decode step for a quantum of learning. Above 100 ms readers notice: a larger GPU, fewer views, or "
            "learning at quiet hours.",
            units.Seconds, quantiles("infold_decode_stall_seconds", 0.5, 0.99), QUARTER, ((0.1, ORANGE), (0.5, RED)),
        ),
        graph(
            "Requests",
            "Running requests hold a slot (INFOLD_SLOTS, 32); waiting ones do not yet. Waiting for long: add slots if memory "
            "allows, else send fewer requests.",
            units.Short, {"running": "sum(infold_num_requests_running)", "waiting": "sum(infold_num_requests_waiting)"}, QUARTER,
        ),
        graph(
            "Tokens per second",
            "Prompt tokens read and tokens written. Written ones falling with the same requests running: learning or another "
            "process takes the cores.",
            units.Short,
            {
                "prompt": "sum(rate(infold_prompt_tokens_total[$__rate_interval]))",
                "generation": "sum(rate(infold_generation_tokens_total[$__rate_interval]))",
            },
            QUARTER,
        ),
        graph(
            "Finished requests",
            "By why they ended. error: see the server's log. Many cancelled: clients give up, see the latencies. Mostly length: "
            "max_new_tokens cuts answers short.",
            units.RequestsPerSecond, {"{{finish_reason}}": finished}, QUARTER,
        ),
    ]  # fmt: skip


def process() -> list[Graph | Stat]:
    """What the server takes from the machine."""
    opened = f"max(process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}})"
    return [
        graph(
            "Memory",
            "Resident memory of the server. Grows with resident versions and running requests, and stays level otherwise; "
            "steady growth is a fault worth reporting.",
            units.BytesIEC, {"{{instance}}": f"process_resident_memory_bytes{{{OURS}}}"},
        ),
        graph(
            "CPU",
            "Cores in use. At the machine's limit, learning and decoding slow each other down.",
            units.Short, {"{{instance}}": f"rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval])"},
        ),
        stat(
            "Open files", "Of those allowed. Near one: connections leak or the limit is low; raise `ulimit -n`.",
            units.PercentUnit, opened, 4, ((None, GREEN), (0.7, ORANGE), (0.9, RED)), 8,
        ),
        stat(
            "Up for", "Shorter than you expect: it was restarted; every accepted document is still learned exactly once.",
            units.Seconds, f"time() - max(process_start_time_seconds{{{OURS}}})", 4, ((None, "text"),), 8,
        ),
    ]  # fmt: skip


def dashboard() -> Dashboard:
    """All rows."""
    namespace = QueryVariable("namespace").label("Namespace").query("label_values(infold_queue_depth, namespace)")
    namespace.datasource(PROMETHEUS).multi(True).include_all(True).all_value(".+")
    namespace.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    namespace.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    board = Dashboard("infold").uid("infold").tags(["infold"]).readonly()
    board.timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    board.description("An LLM server that keeps learning while it serves. Generated by deploy/grafana/dashboard.py.")
    board.time("now-30m", "now").refresh("5s").with_variable(namespace)
    rows = {"Learning": [*headline(), *learning()], "Drift": drift(), "Serving": serving(), "Process": process()}
    number = 0
    for title, panels in rows.items():
        number += 1
        board.with_row(Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(panel.id(number))
    return board


def render() -> str:
    """The dashboard's file."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard().build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(render())
