"""A case: one operation of a program, with one bottleneck in it or with what merely looks like it."""

from __future__ import annotations

import inspect
import random
import sqlite3
import ssl
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

HOSTS: Final = ("main", "thread", "fastapi")  # where an operation runs; a coroutine: in a loop, or under FastAPI
NOUNS: Final = [
    "users",
    "orders",
    "items",
    "carts",
    "invoices",
    "reports",
    "stock",
    "prices",
    "ratings",
    "messages",
    "routes",
    "tariffs",
]
DATABASE: Final = Path(tempfile.mkdtemp(prefix="otel-perf-bench-")) / "shop.sqlite"

TRUST: Final = ssl.create_default_context()  # made once: it takes httpx 20 ms


class Scenario(NamedTuple):
    """A function that is the body of an operation."""

    kind: str
    injects: bool  # or is healthy
    run: Callable[..., Any]
    around: Callable[[Case], AbstractContextManager[Any]]
    blame: tuple[Any, ...]  # functions and names that may be called the culprit
    hosts: tuple[str, ...]
    first: bool  # the operation was never run before


SCENARIOS: Final[dict[str, Scenario]] = {}


def bottleneck(
    kind: str,
    *,
    around: Callable[[Case], AbstractContextManager[Any]] = nullcontext,
    blame: tuple[Any, ...] = (),
    hosts: tuple[str, ...] = HOSTS,
    injects: bool = True,
    first: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function has a bottleneck of ``kind``, for which it is to blame itself, or what ``blame`` names.

    ``around`` runs from before the operation until after it, outside of its trace; what it gives is ``case.given``.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SCENARIOS[function.__name__] = Scenario(kind, injects, function, around, (function, *blame), hosts, first)
        return function

    return register


def healthy(kind: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function looks as if it had a bottleneck of ``kind``, and has none."""
    return bottleneck(kind, injects=False, **options)


@dataclass
class Case:
    """What varies between the runs of a scenario comes from ``random``, which its seed determines."""

    id: str
    scenario: str
    strength: float
    seed: int
    server: str
    given: Any = None
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.begin(0)

    def begin(self, number: int) -> None:
        """Have everything as it was before, for another try; the first is number 0."""
        self.mark = f"{self.id}#{number}"
        self.rehearsal = False
        self.random = random.Random(self.id)
        self.noun = self.random.choice(NOUNS)
        self.name = f"GET /{self.noun}/{self.id.replace('/', '-')}"
        self.steps = [f"{self.random.choice(('load', 'check', 'render'))}_{self.noun}" for _ in range(self.seed % 4)]
        self.host = self.random.choice(SCENARIOS[self.scenario].hosts)
        self.prefaced = self.random.random() < 0.5

    def over(self, threshold: float, *, at_most: float = float("inf")) -> float:
        """``threshold`` times the strength, ± 20 %."""
        return min(threshold * self.strength * self.random.uniform(0.8, 1.2), at_most)

    def about(self, value: float) -> float:
        """``value`` ± 20 %."""
        return value * self.random.uniform(0.8, 1.2)

    def url(self, path: str, seconds: float = 0.0, room: int = 0) -> str:
        """Of something that takes so long."""
        return f"{self.server}/{path}?ms={seconds * 1000:.1f}&room={room}"


def connect() -> sqlite3.Connection:
    """To the shop's database, with ``pause(seconds)``: a statement takes as long as a case wants it to."""
    connection = sqlite3.connect(DATABASE, check_same_thread=False, timeout=30)
    connection.create_function("pause", 1, time.sleep)
    return connection


def fill() -> None:
    """Make the shop's database."""
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, shelf INTEGER)")
    cursor.executemany("INSERT INTO item VALUES (?, ?, ?)", [(n, f"item {n}", n % 50) for n in range(2000)])
    cursor.execute("CREATE TABLE line (id INTEGER PRIMARY KEY, item INTEGER, note TEXT)")
    cursor.executemany("INSERT INTO line VALUES (?, ?, ?)", [(n, n, f"line {n}") for n in range(2000)])
    connection.commit()
    connection.close()


def places(scenario: Scenario) -> list[list[Any]]:
    """File, function, first and last line of every function that may be blamed."""
    return [_lines(part) for part in scenario.blame if inspect.isfunction(part)]


def _lines(function: Callable[..., Any]) -> list[Any]:
    source, first = inspect.getsourcelines(function)
    return [Path(function.__code__.co_filename).name, function.__qualname__, first, first + len(source) - 1]
