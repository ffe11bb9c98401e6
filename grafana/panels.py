"""Panels as they are on every dashboard: what they ask, in which unit, what it means and where it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    statetimeline,
    table,
    tempo,
    text,
    timeseries,
)  # fmt: skip
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import MetricsQueryType, SearchTableType
from grafana_foundation_sdk.models.text import TextMode

if TYPE_CHECKING:
    from collections.abc import Sequence

# The series that the variables choose, and the resource of a span or a log line likewise.
CHOSEN: Final = 'service_name=~"$service", service_version=~"$version", service_instance_id=~"$instance"'
SPANS: Final = 'resource.service.name =~ "${service:pipe}"'
LOGS: Final = '{service_name=~"$service"} | service_version=~"$version"'
# A minute and a second of a window that Grafana chooses.
MINUTES: Final = "($__rate_interval_ms / 60000)"
SECONDS: Final = "($__rate_interval_ms / 1000)"
WIDTH, HEIGHT = 12, 8
Kind = str
Steps = tuple[tuple[float | None, str], ...]
GOOD_BELOW: Final[Steps] = ((None, "green"), (0.8, "orange"), (0.9, "red"))
NONE_IS_GOOD: Final[Steps] = ((None, "green"), (0.000001, "red"))


@dataclass(frozen=True, slots=True)
class Ask:
    """A query: PromQL, or the language that ``source`` says."""

    query: str
    legend: str = ""
    source: str = "prometheus"
    exemplars: bool = False
    at_once: bool = False  # one value for the whole time, not a line

    def target(self, number: int, *, tabular: bool = False) -> Any:
        """As Grafana has it."""
        name = chr(ord("A") + number)
        if self.source == "loki":
            kind = "instant" if self.at_once else "range"
            found = loki.Dataquery().expr(self.query).legend_format(self.legend).query_type(kind)
            return found.ref_id(name).datasource(reference("loki"))
        if self.source == "tempo":
            traces = tempo.TempoQuery().query(self.query).query_type("traceql").ref_id(name)
            traces = traces.limit(50).datasource(reference("tempo"))
            if "| rate(" in self.query or "_over_time(" in self.query:
                return traces.metrics_query_type(MetricsQueryType.RANGE)
            return traces.table_type(SearchTableType.TRACES)
        asked = prometheus.Dataquery().expr(self.query).legend_format(self.legend or "__auto").ref_id(name)
        asked = asked.datasource(reference("prometheus"))
        if self.at_once:
            return asked.instant().format(PromQueryFormat.TABLE if tabular else PromQueryFormat.TIME_SERIES)
        return asked.range().exemplar(self.exemplars)


def gained(series: str, window: str = "$__rate_interval") -> str:
    """What came to a counter in ``window``, with what it began with.

    Most of what is worth a look happens once, so that its series begins with 1 and stays there: increase() sees what
    came after the first sample, and says 0. Of a series that was not there when the window began, all of it counts.
    """
    return f"((last_over_time({series}[{window}]) unless {series} offset {window}) or increase({series}[{window}]))"


def reference(source: str) -> models.DataSourceRef:
    """The data source that the dashboard's variable names."""
    return models.DataSourceRef(type_val=source, uid=f"${{{source}_datasource}}")


def logql(query: str, legend: str = "") -> Ask:
    """A question to Loki."""
    return Ask(query, legend, "loki")


def traceql(query: str) -> Ask:
    """A question to Tempo."""
    return Ask(query, source="tempo")


def lines(
    title: str, what: str, unit: str, asks: Sequence[Ask], links: Sequence[Any], *,
    width: int = WIDTH, steps: Steps = (), stacked: bool = False, least: float | None = 0, most: float | None = None,
) -> Any:  # fmt: skip
    """Lines over time. ``links`` that name labels are on the lines, the others on the panel."""
    panel = timeseries.Panel().legend(
        common.VizLegendOptions()
        .display_mode(shapes.LegendDisplayMode.TABLE).placement(shapes.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"]).show_legend(True)
    )  # fmt: skip
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
    )
    panel = panel.fill_opacity(40 if stacked else 8).show_points(shapes.VisibilityMode.NEVER).span_nulls(120_000)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    if steps:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED))
    if least is not None:
        panel = panel.min(least)
    if most is not None:
        panel = panel.max(most)
    return _filled(panel, title, what, unit, asks, links, width, HEIGHT, steps)


def number(
    title: str, what: str, unit: str, ask: Ask, links: Sequence[Any], *, steps: Steps = ((None, "blue"),),
    width: int = 4, words: dict[str, tuple[str, str]] | None = None,
) -> Any:  # fmt: skip
    """One figure, with its course behind it."""
    panel = stat.Panel().graph_mode(shapes.BigValueGraphMode.AREA).color_mode(shapes.BigValueColorMode.BACKGROUND)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _filled(_worded(panel, words), title, what, unit, [ask], links, width, 4, steps)


def states(
    title: str, what: str, unit: str, asks: Sequence[Ask], links: Sequence[Any], *,
    words: dict[str, tuple[str, str]] | None = None, width: int = WIDTH, steps: Steps = ((None, "text"), (1, "green")),
) -> Any:  # fmt: skip
    """A band for each series, coloured by its value."""
    panel = statetimeline.Panel().merge_values(True).row_height(0.8)
    panel = panel.color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    return _filled(_worded(panel, words), title, what, unit, asks, links, width, HEIGHT, steps)


def ranking(title: str, what: str, unit: str, asks: Sequence[Ask], links: Sequence[Any], *, width: int = WIDTH) -> Any:
    """Bars, the longest first."""
    panel = (
        bargauge.Panel().orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.BASIC)
    )
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _filled(panel, title, what, unit, asks, links, width, HEIGHT, ())


def heat(title: str, what: str, unit: str, ask: Ask, links: Sequence[Any], *, width: int = WIDTH) -> Any:
    """How a histogram changes over time, with its exemplars."""
    panel = heatmap.Panel().show_y_histogram().exemplars_color("rgba(255,0,255,0.7)")
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit))
    return _filled(panel, title, what, unit, [ask], links, width, HEIGHT, ())


def rows(
    title: str, what: str, unit: str, asks: Sequence[Ask], links: Sequence[Any], *,
    columns: Sequence[tuple[str, str]] = (), hidden: Sequence[str] = (), width: int = 24,
) -> Any:  # fmt: skip
    """A table. ``columns`` names each query's value and its unit; several queries are joined by their labels."""
    panel = table.Panel().filterable(True)
    if asks[0].source == "prometheus":
        if len(asks) > 1:
            panel = panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        values = ["Value"] if len(asks) == 1 else [f"Value #{chr(ord('A') + place)}" for place in range(len(asks))]
        away = dict.fromkeys(["Time", *hidden], True)
        names = dict(zip(values, (name for name, _ in columns), strict=True))
        panel = panel.with_transformation(
            models.DataTransformerConfig(id_val="organize", options={"excludeByName": away, "renameByName": names})
        )
        for name, its in columns:
            panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=its)])
        if columns:
            panel = panel.sort_by([common.TableSortByFieldState().display_name(columns[0][0]).desc(True)])
    return _filled(panel, title, what, unit, asks, links, width, HEIGHT + 2, ())


def stream(title: str, what: str, ask: Ask, links: Sequence[Any], *, width: int = 24) -> Any:
    """Log lines as they are."""
    panel = logs.Panel().show_time(True).wrap_log_message(True).enable_log_details(True)
    panel = panel.sort_order(shapes.LogsSortOrder.DESCENDING)
    return _filled(panel, title, what, "none", [ask], links, width, HEIGHT + 2, ())


def note(title: str, what: str, words: str, *, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Markdown."""
    panel = text.Panel().title(title).description(what).span(width).height(height)
    return panel.mode(TextMode.MARKDOWN).content(words)


def _filled(
    panel: Any, title: str, what: str, unit: str, asks: Sequence[Ask], links: Sequence[Any], width: int,
    height: int, steps: Steps,
) -> Any:  # fmt: skip
    of_series = [link for link in links if "__field.labels" in link.build().url]
    panel = panel.title(title).description(what).unit(unit).span(width).height(height)
    tabular = isinstance(panel, table.Panel)
    panel = panel.datasource(reference(asks[0].source))
    panel = panel.targets([ask.target(place, tabular=tabular) for place, ask in enumerate(asks)])
    panel = panel.links([link for link in links if link not in of_series]).data_links(of_series)
    if steps:
        chosen = [models.Threshold(value=value, color=color) for value, color in steps]
        panel = panel.thresholds(builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(chosen))
    return panel


def _worded(panel: Any, words: dict[str, tuple[str, str]] | None) -> Any:
    if not words:
        return panel
    named = {
        value: models.ValueMappingResult(text=text, color=color, index=place)
        for place, (value, (text, color)) in enumerate(words.items())
    }
    return panel.mappings([models.ValueMap(options=named)])
