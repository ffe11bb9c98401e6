"""Writes the dashboards: ``python -m grafana.dashboards [FOLDER]``, where tools/environments/grafana.txt is installed.

The folder is grafana/dashboards unless another is given. A test makes them anew and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards import alerts, bottlenecks, caches, functions, logs, memory, overview, pipeline, signals

FOLDER: Final = Path(__file__).with_name("dashboards")
BOARDS: Final = {
    "overview": overview,
    "bottlenecks": bottlenecks,
    "functions": functions,
    "memory": memory,
    "caches": caches,
    "logs": logs,
    "signals": signals,
    "pipeline": pipeline,
    "alerts": alerts,
}


def main(folder: Path = FOLDER) -> None:
    """Write them all."""
    for name, module in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(module.make())
        (folder / f"{name}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
