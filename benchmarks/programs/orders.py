"""Answers orders one after the other, in six steps of known work. Arguments: ORDERS [STEP FACTOR].

With STEP and FACTOR that step does so much more of its work, 1.3 for 30 %. What a step does is of the kinds that
programs wait for: arithmetic, text, JSON, a database, and sleep that stands for a network. Each step is a span, and a
monitored function in it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

import otel_perf as perf

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS: Final = 50  # of work in each step, so that 10 % more are a whole number


def _parse(units: int) -> None:
    order = {"id": 7, "lines": [{"article": number, "amount": 2, "note": "as usual"} for number in range(4)]}
    for _ in range(units):
        json.loads(json.dumps(order))


def _price(units: int) -> None:
    for _ in range(units):
        sum(number * number % 97 for number in range(400))


def _render(units: int) -> None:
    for _ in range(units):
        "".join(f"<li>{number:>8,}</li>" for number in range(60))


def _fetch(units: int) -> None:
    time.sleep(units * 60e-6)


def _pay(units: int) -> None:
    time.sleep(units * 20e-6)
    for _ in range(units):
        sum(number % 7 for number in range(150))


def _find() -> Callable[[int], None]:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE article (id INTEGER, price REAL)")
    database.executemany("INSERT INTO article VALUES (?, ?)", ((number, number / 7) for number in range(300)))

    def find(units: int) -> None:
        for _ in range(units):
            database.execute("SELECT sum(price) FROM article WHERE id % 7 = 3").fetchone()

    return find


STEPS: Final = {
    "parse": _parse, "find": _find(), "price": _price, "fetch": _fetch, "render": _render, "pay": _pay,
}  # fmt: skip


def main(orders: int, slow: str = "", factor: float = 1.0) -> None:
    """Answer them."""
    start_span = trace.get_tracer("orders").start_as_current_span
    work = {name: round(UNITS * factor) if name == slow else UNITS for name in STEPS}
    steps = {name: perf.monitored(name=name, span="never")(step) for name, step in STEPS.items()}
    for _ in range(orders):
        with start_span("order"):
            for name, step in steps.items():
                with start_span(name):
                    step(work[name])


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3], *map(float, sys.argv[3:4]))
