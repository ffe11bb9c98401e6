"""What every dashboard has: its variables, the deploys as annotations, and the way to the other dashboards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from grafana.links import UIDS
from grafana.panels import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

TAG: Final = "otel-perf"
# Every process that otel-perf runs in has it, from its first export on.
PRESENT: Final = "process_memory_usage_bytes"
# A version that was not there five minutes ago. It says so for five minutes, which is how long the mark is.
DEPLOYED: Final = (
    f'count by (service_name, service_version) ({PRESENT}{{service_name=~"$service"}})'
    f' unless count by (service_name, service_version) ({PRESENT}{{service_name=~"$service"}} offset 5m)'
)
_SOURCES: Final = {"prometheus": "Prometheus", "tempo": "Tempo", "loki": "Loki"}
_VARIABLES: Final = (
    ("service", "Service", f"label_values({PRESENT}, service_name)"),
    ("version", "Version", f'label_values({PRESENT}{{service_name=~"$service"}}, service_version)'),
    (
        "instance",
        "Instance",
        f'label_values({PRESENT}{{service_name=~"$service", service_version=~"$version"}}, service_instance_id)',
    ),
)


CHOOSERS: Final = tuple(name for name, _, _ in _VARIABLES)


def board(
    name: str, description: str, groups: Sequence[tuple[str, Sequence[Any]]], *, search: str = "",
    choosers: Sequence[str] = CHOOSERS,
) -> Any:  # fmt: skip
    """A dashboard; ``groups`` are rows of panels under a heading, ``search`` the label of a text box ``search``."""
    found = builders.Dashboard(name).uid(UIDS[name]).description(description).tags([TAG])
    found = found.time("now-1h", "now").refresh("30s").timezone("browser").readonly()
    found = found.tooltip(models.DashboardCursorSync.CROSSHAIR)
    every = [panel for _, panels in groups for panel in panels]
    asked = JSONEncoder().encode([panel.build() for panel in every])
    for source, title in _SOURCES.items():
        if f"${{{source}_datasource}}" in asked:
            found = found.with_variable(_source(source, title))
    for variable, label, query in _VARIABLES:
        if variable in choosers:
            found = found.with_variable(_chooser(variable, label, query))
    if search:
        found = found.with_variable(builders.TextBoxVariable("search").label(search).default_value(""))
    found = found.annotation(_deploys())
    found = found.link(
        builders.DashboardLink("Dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
    place = 0
    for heading, panels in groups:
        found = found.with_row(builders.Row(heading))
        for panel in panels:
            place += 1
            found = found.with_panel(panel.id(place))
    return found.build()


def _source(kind: str, title: str) -> builders.DatasourceVariable:
    option = models.VariableOption(selected=True, text=title, value=kind)  # the uid that is provisioned
    return builders.DatasourceVariable(f"{kind}_datasource").label(f"{title} data source").type(kind).current(option)


def _chooser(name: str, label: str, query: str) -> builders.QueryVariable:
    option = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    found = builders.QueryVariable(name).label(label).datasource(reference("prometheus"))
    # "All" has the empty label among it, since not every service says its version; but Loki wants one that has not.
    # That is ..* and not .+, since a link has it as it is, and in an address + is a blank.
    found = found.query({"query": query, "refId": name, "qryType": 1}).multi(True).include_all(True)
    found = found.all_value("..*" if name == "service" else ".*")
    found = found.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    return found.current(option)


def _deploys() -> builders.AnnotationQuery:
    found = builders.AnnotationQuery().name("Deploys").datasource(reference("prometheus")).enable(True)
    return found.icon_color("blue").expr(DEPLOYED)
