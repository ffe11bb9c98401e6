"""Where a panel leads to: another dashboard, or a query in Explore, with the time and the variables of the moment."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where each dashboard is: the last part of its address, fixed for ever, since links and bookmarks have it.
UIDS: Final = {
    "Overview": "otel-perf-overview",
    "Bottlenecks": "otel-perf-bottlenecks",
    "Functions": "otel-perf-functions",
    "Memory": "otel-perf-memory",
    "Caches": "otel-perf-caches",
    "Logs and events": "otel-perf-logs",
    "Signals and agents": "otel-perf-signals",
    "Pipeline": "otel-perf-pipeline",
    "Alerts": "otel-perf-alerts",
}
# Grafana puts values in where it sees ${…}; in a quoted address it does not see them.
_VARIABLE: Final = re.compile(r"%24%7B([\w%.]+?)%7D")
_SHORT: Final = re.compile(r"\$(service|version|instance)\b")


def to_board(name: str, labels: Mapping[str, str] | None = None) -> builders.DashboardLink:
    """To another dashboard. ``labels`` maps its variables to labels of the series that was clicked on."""
    chosen = "".join(f"&var-{variable}=${{__field.labels.{label}}}" for variable, label in (labels or {}).items())
    values = chosen or "&${__all_variables}"
    title = f"{name} of this series" if chosen else name
    return _link(title, f"/d/{UIDS[name]}?${{__url_time_range}}{values}")


def to_explore(title: str, source: str, query: str) -> builders.DashboardLink:
    """To a query in Explore; ``source`` is ``prometheus``, ``tempo`` or ``loki``.

    Several values of a variable become ``a|b`` there. Grafana's own format would escape them, which is right for the
    query of a panel and wrong within JSON.
    """
    query = _SHORT.sub(r"${\1:pipe}", query)
    uid = f"${{{source}_datasource}}"
    datasource = {"type": source, "uid": uid}
    text = {"query": query, "queryType": "traceql"} if source == "tempo" else {"expr": query}
    panes = {
        "drill": {
            "datasource": uid,
            "queries": [{"refId": "A", "datasource": datasource, **text}],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    plain = quote(json.dumps(panes, separators=(",", ":")), safe="")
    address = _VARIABLE.sub(lambda found: "${" + found[1].replace("%3A", ":") + "}", plain)
    return _link(title, f"/explore?schemaVersion=1&panes={address}")


def _link(title: str, url: str) -> builders.DashboardLink:
    return builders.DashboardLink(title).type(DashboardLinkType.LINK).url(url)
