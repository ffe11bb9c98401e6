"""Prometheus's rules: they are valid, each alert has a case that fires, one that stays quiet, and a runbook."""

import re
from pathlib import Path

import pytest
import yaml

from otel_perf.cli import main
from tests.e2e.prometheus import CONFIG, FLAGS, SCRAPED, promtool
from tools import queries

ROOT = Path(__file__).resolve().parents[1]
CASES = sorted((ROOT / "tests" / "prometheus").glob("*.yml"))
RUNBOOKS = (ROOT / "docs" / "alerts.md").read_text()
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


def test_configuration_and_rules_are_valid():
    done = promtool("check", "config", "--lint=all", "--lint-fatal", CONFIG / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_case_comes_out_as_it_says():
    done = promtool("test", "rules", *CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_that_fires_one_that_stays_quiet_and_a_runbook(name):
    tests = [test for file in CASES for test in yaml.safe_load(file.read_text())["tests"]]
    (fires,) = [test for test in tests if test["name"] == f"{name} fires"]
    (quiet,) = [test for test in tests if test["name"] == f"{name} stays quiet"]
    assert any(each["alertname"] == name and each.get("exp_alerts") for each in fires["alert_rule_test"])
    assert quiet["input_series"], "it is quiet with data, not without"
    assert all(each["alertname"] == name and not each.get("exp_alerts") for each in quiet["alert_rule_test"])
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}#{name.lower()}"
    assert {"summary", "description", "dashboard"} <= rule["annotations"].keys()
    (text,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert text.split(":")[0].lower() == rule["labels"]["severity"]
    assert "**Do:**" in text


def test_one_place_says_where_the_runbooks_are_and_they_are_there():
    """GIVEN the address as it is committed THEN it is a dashboard of the Grafana of docker-compose.yml that shows them."""
    address = yaml.safe_load((CONFIG / "prometheus.yml").read_text())["global"]["external_labels"]["runbooks"]
    boards = {f"http://localhost:3000/d/{board['uid']}": board for board in queries.boards().values()}
    notes = [panel for panel in boards[address]["panels"] if panel["type"] == "text"]
    shown = "\n\n".join(f"## {panel['title']}\n{panel['options']['content']}" for panel in notes)
    assert RUNBOOKS[RUNBOOKS.index("## ") :].strip() == shown


def test_every_runbook_is_of_an_alert():
    assert set(re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)) == set(ALERTS)


def test_dashboards_of_alerts_exist():
    uids = {board["uid"] for board in queries.boards().values()}
    assert {rule["annotations"]["dashboard"] for rule in ALERTS.values()} <= uids


@pytest.mark.parametrize("name", ALERTS)
def test_what_a_runbook_leads_to_is_there(name):
    """GIVEN *Dashboard → Panel* and a link of it THEN Grafana has them by these names."""
    boards = {board["title"]: board for board in queries.boards().values()}
    (text,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    for board, panel, link in re.findall(r"\*([\w ]+) → ([^*]+)\*(?:, its link \*([^*]+)\*)?", " ".join(text.split())):
        panels = {each["title"]: each for each in boards[board]["panels"]}
        assert panel in panels
        assert not link or link in {each["title"] for each in panels[panel]["links"]}


def test_commands_of_runbooks_and_alerts_are_complete(monkeypatch, capsys):
    """GIVEN `otel-perf …` as it stands there THEN the command takes it: nothing is missing that somebody woken has to find."""
    texts = RUNBOOKS, *(rule["annotations"]["description"] for rule in ALERTS.values())
    commands = {command for text in texts for command in re.findall(r"`otel-perf ([^`]+)`", " ".join(text.split()))}
    assert commands == {"doctor", "health", "signals ls"}
    for command in commands:
        monkeypatch.setattr(f"otel_perf.cli.{command.split()[0]}.execute", lambda options: 0)
        assert main(command.split()) == 0, capsys.readouterr().err


def test_the_alerts_that_the_bundle_promises_are_there():
    assert set(ALERTS) >= {
        "MemoryLimitNear", "MemoryLeakSuspected", "CacheHitRatioFell", "GCPauseLong", "EventLoopLagging",
        "BottlenecksUpAfterDeploy", "CollectorDeliveryFailing", "CollectorLosing", "StoreFilling", "SignalOverdue", "HealthFailing",
        "ErrorBudgetBurnsFast", "ErrorBudgetBurns",
    }  # fmt: skip


def test_prometheus_is_told_what_its_configuration_needs():
    text = (CONFIG / "prometheus.yml").read_text()
    assert all(flag in text for flag in FLAGS)
    assert SCRAPED in text
