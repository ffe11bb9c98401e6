"""The dashboards: made by the code that is here, and after the rules that Grafana's dashboard-linter has."""

import json
import re
import subprocess
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tools import environments, queries
from tools.queries import ROOT, boards, links, panels

BOARDS = boards()
NAMES = {
    "Overview", "Bottlenecks", "Functions", "Memory", "Caches", "Logs and events", "Signals and agents", "Pipeline", "Alerts",
}  # fmt: skip
UIDS = {board["uid"] for board in BOARDS.values()}
SOURCES = yaml.safe_load(queries.SOURCES.read_text())["datasources"]
PANELS = [
    pytest.param(board, panel, id=f"{name}-{panel['id']}") for name, board in BOARDS.items() for panel in panels(board)
]
PROMQL = [query for query in queries.made() if query.source == "prometheus" and query.way == "panel"]
# Ids of units of Grafana, of those that these dashboards use.
UNITS = {
    "short", "none", "s", "h", "bytes", "Bps", "percentunit", "reqps", "ops", "cps",
}  # fmt: skip
GLOBALS = {
    "__rate_interval", "__rate_interval_ms", "__range", "__auto", "__from", "__to", "__url_time_range",
    "__all_variables", "__field",
}  # fmt: skip
CHOSEN = {"service": "cart|shop", "version": "1.0|2.0", "instance": "a|b", "search": "ab" * 16}


def filled(board, text, values):
    """With the values of the variables as Grafana puts them into a link: as they are, whatever an address makes of them."""
    known = {
        variable["name"]: variable.get("allValue") or variable["current"]["value"]
        for variable in board["templating"]["list"]
        if variable["type"] != "textbox"
    }
    known |= {"search": "", "__from": "1700000000000", "__to": "1700003600000"} | values
    return re.sub(r"\$\{(\w+)(?::pipe)?\}", lambda found: known[found[1]], text)


def test_the_files_are_what_the_code_makes(tmp_path):
    python = environments.ensure("grafana") / "bin" / "python"
    subprocess.run([python, "-m", "grafana.dashboards", tmp_path], cwd=ROOT, check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in queries.DASHBOARDS.iterdir()}


def test_there_are_all_dashboards_and_enough_panels():
    assert {board["title"] for board in BOARDS.values()} == NAMES
    assert sum(len(panels(board)) for board in BOARDS.values()) >= 40


def test_no_uid_and_no_id_is_there_twice():
    assert len(UIDS) == len(BOARDS)
    for board in BOARDS.values():
        ids = Counter(panel["id"] for panel in panels(board))
        titles = Counter(panel["title"] for panel in panels(board))
        assert max(ids.values()) == 1
        assert max(titles.values()) <= 2, titles  # a figure, and its course
        for panel in panels(board):
            names = [target["refId"] for target in panel["targets"]]
            assert len(names) == len(set(names))


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_is_of_the_classic_schema_and_not_edited_by_hand(board):
    assert {"panels", "templating", "schemaVersion", "uid", "title", "description"} <= board.keys()
    assert board["schemaVersion"] >= 39
    assert board["editable"] is False
    assert board["tags"] == ["otel-perf"]
    assert "id" not in board
    assert any(link["type"] == "dashboards" and link["includeVars"] and link["keepTime"] for link in board["links"])


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_variables_are_the_data_sources_then_service_version_and_instance(board):
    listed = board["templating"]["list"]
    by_name = {variable["name"]: variable for variable in listed}
    assert len(by_name) == len(listed)
    assert "prometheus_datasource" in by_name
    for source in ("prometheus", "tempo", "loki"):
        variable = by_name.get(f"{source}_datasource")
        if variable is None:
            continue
        assert (variable["type"], variable["query"]) == ("datasource", source)
        assert variable["label"] == f"{source.capitalize()} data source"
        assert variable["current"]["value"] in {known["uid"] for known in SOURCES if known["type"] == source}
    choosers = [name for name in by_name if not name.endswith("_datasource") and name != "search"]
    assert choosers == ["service", "version", "instance"][: 1 if board["title"] == "Alerts" else 3]
    for name in choosers:
        variable = by_name[name]
        assert variable["type"] == "query"
        assert variable["datasource"] == {"type": "prometheus", "uid": "${prometheus_datasource}"}
        assert variable["multi"]
        assert variable["includeAll"]
        # Not every service says its version; Loki takes no query whose every matcher may be empty.
        assert variable["allValue"] == ("..*" if name == "service" else ".*")
        assert variable["refresh"] == 2  # on a change of the time: instances come and go
        assert variable["query"]["query"].startswith("label_values(")
        # One narrows the next.
        before = {"service": [], "version": ["service"], "instance": ["service", "version"]}[name]
        assert re.findall(r"\$(\w+)", variable["query"]["query"]) == before


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_variable_is_used_and_every_used_one_is_there(board):
    text = json.dumps({key: value for key, value in board.items() if key != "templating"})
    used = {name for pair in re.findall(r"\$(?:\{(\w+)[:.}]|(\w+))", text) for name in pair if name}
    defined = {variable["name"] for variable in board["templating"]["list"]}
    assert used - GLOBALS <= defined
    assert defined - used == set()


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_deploys_are_marked(board):
    (deploys,) = board["annotations"]["list"]
    assert deploys["enable"]
    assert "service_version" in deploys["expr"]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_from_where(board, panel):
    assert panel["title"]
    assert panel["title"] == panel["title"].strip()
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for override in panel["fieldConfig"]["overrides"]:
        for chosen in override["properties"]:
            assert chosen["id"] != "unit" or chosen["value"] in UNITS
    assert panel["targets"]
    for target in [panel, *panel["targets"]]:
        kind = target["datasource"]["type"]
        assert target["datasource"]["uid"] == f"${{{kind}_datasource}}"
        assert kind == panel["datasource"]["type"]  # one source for all that a panel asks
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_no_panel_lies_on_another():
    for name, board in BOARDS.items():
        taken = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, (name, panel["title"])
            taken |= cells


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_leads_on_to_something_that_exists(board, panel):
    assert links(panel)
    defined = {variable["name"] for variable in board["templating"]["list"]}
    legends = " ".join(target.get("legendFormat", "") for target in panel["targets"])
    for link in links(panel):
        parts = urlsplit(link["url"])
        assert link["title"]
        assert link["type"] == "link"
        if parts.path == "/explore":
            values = parse_qs(parts.query, strict_parsing=True)
            assert values["schemaVersion"] == ["1"]
            found = queries.explored(link["url"])
            assert found
            for query in found:
                source = query["datasource"]
                assert source["uid"] == f"${{{source['type']}_datasource}}"
                assert query["expr" if source["type"] != "tempo" else "query"]
                # Only ${…} is replaced in a link, and only where it is not quoted.
                assert not re.search(r"\$(?!\{)", json.dumps(query))
            for name in re.findall(r"\$\{(\w+)", link["url"]):
                assert name in defined | GLOBALS
        else:
            assert parts.path.removeprefix("/d/") in UIDS
            assert "${__url_time_range}" in link["url"]
            for variable, label in re.findall(r"var-(\w+)=\$\{__field\.labels\.(\w+)\}", link["url"]):
                assert variable in defined
                assert f"{{{{{label}}}}}" in legends, "the series that is clicked on has no such label"


@pytest.mark.parametrize("values", [{}, CHOSEN], ids=["all", "chosen"])
@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_explore_is_asked_what_the_link_means(board, panel, values):
    """GIVEN the values in the address WHEN a browser reads it, to whom + is a blank, THEN the query is what it would be."""
    for address in [link["url"] for link in links(panel) if link["url"].startswith("/explore")]:
        asked = queries.explored(filled(board, address, values))
        for query, meant in zip(asked, queries.explored(address), strict=True):
            (text,) = [query[key] for key in ("expr", "query") if key in query]
            (wanted,) = [meant[key] for key in ("expr", "query") if key in meant]
            assert text == filled(board, wanted, values)
            assert query["datasource"]["uid"] == query["datasource"]["type"]


@pytest.mark.parametrize("query", PROMQL, ids=lambda query: f"{query.board}-{query.panel}-{query.target['refId']}")
def test_promql_uses_the_variables_and_the_interval_that_grafana_gives(query):
    text = query.text
    for function in ("rate", "increase", "irate"):
        for window in re.findall(rf"\b{function}\([^\[\]]*\[([^\]]+)\]", text):
            assert window in {"$__rate_interval", "$__range"}
            assert window != "$__range" or query.target.get("instant")
    for selector in re.findall(r"(?<!\w)([a-zA-Z_:][\w:]*)?\{([^}]*)\}", text.replace("{{", "").replace("}}", "")):
        if 'job="otelcol"' in selector[1]:
            continue  # of the whole installation
        if selector[0] == "ALERTS":
            assert 'service_name=~"$service|"' in selector[1], "those of no service are shown, too"
            continue
        assert 'service_name=~"$service"' in selector[1], selector
    # A metric without braces would be of all services.
    without_labels = re.sub(
        r"(?:by|on|group_left) \([^)]*\)|\{[^}]*\}", lambda found: "{}" * found[0].startswith("{"), text
    )
    assert not re.search(r"\b(?:perf|process|cpython|traces)_\w+(?![\w{:])", without_labels)
    assert query.target.get("instant") or query.target["legendFormat"]


def test_what_happens_once_is_counted():
    """GIVEN a series that begins with 1 and stays there THEN no panel asks by increase() or rate() alone."""
    rare = re.compile(
        r"perf_(bottlenecks|call_errors|events|log|memory_reclaimed|internal_errors|store_dropped)\w*_total|"
        r'traces_span_metrics_calls_total\{.*(status_code=|perf_bottleneck="true")'
    )
    for query in PROMQL:
        for function, series in re.findall(r"\b(rate|increase)\(([^()\[\]]*)\[", query.text):
            if rare.match(series):
                assert function == "increase", series
                assert f"unless {series} offset" in query.text, query


def test_data_sources_lead_to_one_another():
    by_uid = {source["uid"]: source for source in SOURCES}
    assert set(by_uid) == {"prometheus", "tempo", "loki"}
    assert [source["name"] for source in SOURCES if source.get("isDefault")] == ["Prometheus"]
    metrics, traces, logs = (by_uid[uid]["jsonData"] for uid in ("prometheus", "tempo", "loki"))
    assert [(to["name"], to["datasourceUid"]) for to in metrics["exemplarTraceIdDestinations"]] == [
        ("trace_id", "tempo")
    ]
    assert traces["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert "trace_id" in traces["tracesToLogsV2"]["query"]
    assert traces["tracesToMetrics"]["datasourceUid"] == "prometheus"
    assert [
        (field["matcherType"], field["matcherRegex"], field["datasourceUid"]) for field in logs["derivedFields"]
    ] == [("label", "trace_id", "tempo")]
    # In a file, $ is a variable of the environment; $$ is one of Grafana's.
    assert not re.search(
        r"(?<!\$)\$(?!\$)",
        queries.SOURCES.read_text().partition("apiVersion")[2].replace("$__rate_interval is four", ""),
    )


def test_the_provider_reads_the_folder_that_is_committed():
    (provider,) = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/provider.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False


def test_alerting_is_prometheuss_alone():
    assert not (ROOT / "grafana" / "provisioning" / "alerting").exists()
    assert next(source for source in SOURCES if source["uid"] == "prometheus")["jsonData"]["manageAlerts"] is True
