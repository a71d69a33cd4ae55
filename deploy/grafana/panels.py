"""What the dashboards are built from: queries, panels of three kinds, rows.

Covered: how a panel looks, what every panel has, the variable and the links of every dashboard. Not covered: which panels there are
(`overview.py`, `learning.py`, `drift.py`, and `shared.py` for those that several show).
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = models.DataSourceRef("prometheus", "prometheus")
NAMESPACE = 'namespace=~"$namespace"'
OURS = 'job="infold"'
"""Every exporter has process metrics; these are the server's."""
LEARNING = "5m"
"""Window of rates over documents, which come seldom; rates over requests use Grafana's own."""
GREEN, ORANGE, RED, PLAIN = "green", "orange", "red", "text"
QUARTER, THIRD, HALF = 6, 8, 12
"""Widths of panels, of 24."""
HEADLINE = 10
"""Height of the panels that come first; others have 8."""

Steps = tuple[tuple[float | None, str], ...]
Panel = Graph | Stat | Table
Built = TypeVar("Built", Graph, Stat, Table)


def rate(counter: str, window: str = "$__rate_interval", where: str = "") -> str:
    """Of a counter, per second."""
    return f"rate({counter}{{{where}}}[{window}])" if where else f"rate({counter}[{window}])"


def quantile(q: float, histogram: str, by: str = "le", window: str = "$__rate_interval", where: str = "") -> str:
    """Of a histogram; nothing, not NaN, where nothing was observed."""
    return f"histogram_quantile({q}, sum by ({by}) ({rate(f'{histogram}_bucket', window, where)})) >= 0"


def quantiles(histogram: str, *qs: float, window: str = "$__rate_interval", where: str = "") -> dict[str, str]:
    """Legend to expression."""
    return {f"p{100 * q:g}": quantile(q, histogram, window=window, where=where) for q in qs}


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
    title: str,
    advice: str,
    unit: str,
    queries: Mapping[str, str],
    width: int = THIRD,
    bad: Steps = (),
    ceiling: float | None = None,
    height: int = 8,
    stacked: bool = False,
) -> Graph:
    """Lines over time, by legend; thresholds, `bad` or good, are drawn as dashed lines."""
    panel = described(Graph(), title, advice, unit, width, height).min(0).line_width(1).fill_opacity(40 if stacked else 8)
    panel.show_points(common.VisibilityMode.AUTO).span_nulls(60_000)
    panel.tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    legend = VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(common.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"]))
    if ceiling is not None:
        panel.max(ceiling)
    if stacked:
        panel.stacking(StackingConfig().mode(common.StackingMode.NORMAL))
    if bad:
        panel.thresholds(thresholds(bad if bad[0][0] is None else ((None, GREEN), *bad)))
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


def words(panel: Stat, **shown: str) -> Stat:
    """Show `down` and `up` instead of 0 and 1."""
    values = {"0": models.ValueMappingResult(shown["down"]), "1": models.ValueMappingResult(shown["up"])}
    return panel.mappings([models.ValueMap(values)])


def table(title: str, advice: str, unit: str, expr: str, columns: Sequence[str], width: int = THIRD, height: int = 8) -> Table:
    """What there is now: these labels as columns, in this order."""
    panel = described(Table(), title, advice, unit, width, height)
    hidden = dict.fromkeys(("Time", "__name__", "Value", "job"), True)
    order = {name: number for number, name in enumerate(columns)}
    panel.with_target(query(expr, "", "A").instant().format(PromQueryFormat.TABLE))
    organized = models.DataTransformerConfig("organize", options={"excludeByName": hidden, "indexByName": order})
    return panel.with_transformation(organized)


def board(title: str, uid: str, description: str, rows: Mapping[str, Sequence[Panel]]) -> Dashboard:
    """A dashboard: its panels by row. The first row has no heading, so that the headline comes first."""
    namespace = QueryVariable("namespace").label("Namespace").query("label_values(infold_queue_depth, namespace)")
    namespace.datasource(PROMETHEUS).multi(True).include_all(True).all_value(".+")
    namespace.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    namespace.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    others = DashboardLink("infold").type(models.DashboardLinkType.DASHBOARDS).tags(["infold"])
    built = Dashboard(title).uid(uid).tags(["infold"]).readonly().link(others.keep_time(True).include_vars(True))
    built.timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    built.description(f"{description} Generated by deploy/grafana/dashboard.py.")
    built.time("now-30m", "now").refresh("5s").with_variable(namespace)
    number = 0
    for heading, panels in rows.items():
        if number:
            number += 1
            built.with_row(Row(heading).id(number))
        for panel in panels:
            number += 1
            built.with_panel(panel.id(number))
    return built
