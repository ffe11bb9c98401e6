"""What fires, and what to do about it?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import NONE_IS_GOOD, Ask, note, number, rows, states

RUNBOOKS: Final = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"
# Of the chosen services, and of what is no service.
OF_SERVICE: Final = 'service_name=~"$service|"'
FIRING: Final = f'ALERTS{{alertstate="firing", {OF_SERVICE}}}'


def make() -> Any:
    """The dashboard."""
    every = to_explore("All alerts", "prometheus", "ALERTS")
    now = [
        number(
            "Firing",
            "Alerts that fire now.",
            "short",
            Ask(f"sum({FIRING}) or vector(0)"),
            [every],
            steps=NONE_IS_GOOD,
        ),
        states(
            "Since when",
            "How many instances, caches or exporters each alert fires for.",
            "short",
            [Ask(f"sum by (alertname, severity) ({FIRING})", "{{alertname}} ({{severity}})")],
            [every, to_board("Overview")],
            width=20,
            steps=((None, "orange"),),
        ),
        rows(
            "For whom",
            "Alerts that fire or are about to, each with what it is about.",
            "short",
            [Ask(f"ALERTS{{{OF_SERVICE}}}", at_once=True)],
            [every],
            columns=(("On", "short"),),
            hidden=("__name__",),
        ),
    ]
    runbooks = [
        note(name, f"What {name} means and what to do about it.", words.strip())
        for name, words in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.MULTILINE | re.DOTALL)
    ]
    return board(
        "Alerts",
        "The alerts of Prometheus's rules: which fire, since when, and what to do.",
        [("Now", now), ("What to do", runbooks)],
        choosers=("service",),
    )
