"""What ``otel-perf report --compare`` claims on real runs: of nothing, of 10 % and of 30 % more work in one step.

Every pair is of runs of ``programs/orders.py``, taken in turn in a shuffled order, on a machine that does other work as
well. A is the program as it is, twice; B does 10 % or 30 % more of the work of one step, each step in its turn. Each
step is a span and a monitored function. A claim is right if it is of that step, or of the operation that contains it,
and invented if it is of any other, of memory, or of failures. ``exit code 1`` is how often the step was more than the
default of ``--fail-over`` slower, too, which is what fails a build.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common

from otel_perf.analysis.changes import compare
from otel_perf.analysis.sides import open_side
from otel_perf.core.home import STORE_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_perf.analysis.changes import Changes
    from otel_perf.analysis.samples import Samples

STEPS: Final = ("parse", "find", "price", "fetch", "render", "pay")
ROOT: Final = "order"
SIDES: Final = {"A": 1.0, "A again": 1.0, "B + 10 %": 1.1, "B + 30 %": 1.3}
ORDERS: Final = "80"
PAIRS: Final = 20
TIMEOUT: Final = 900.0  # seconds; a run takes a few, but may have to wait for the other work


def make(folder: Path, home: Path, slow: str, runs: int, chance: random.Random) -> None:
    """The runs of one pair."""
    for _ in range(runs):
        order = list(SIDES)
        chance.shuffle(order)
        for side in order:
            place = home / side
            place.mkdir(parents=True, exist_ok=True)
            env = common.environ(folder, {"OTEL_PERF_HOME": str(place), "OTEL_PERF_STORE_PROBE": "off"})
            more = [slow, str(SIDES[side])] if SIDES[side] > 1 else []
            command = [str(folder / "bin" / "opentelemetry-instrument"), str(folder / "bin" / "python")]
            common.run([*command, str(common.PROGRAMS / "orders.py"), ORDERS, *more], env, place, TIMEOUT)


def complete(home: Path, runs: int) -> bool:
    """Whether all runs of the pair are there."""
    places = [home / side for side in SIDES]
    return all((place / STORE_FILE).exists() for place in places) and all(
        len(open_side(str(place)).samples.runs) == runs for place in places
    )


@dataclass(frozen=True, slots=True)
class Claims:
    """What is said to be slower, more or failing more often, and which of it fails a build."""

    said: set[str]
    failing: set[str]

    @classmethod
    def of(cls, found: Changes) -> Claims:
        """Those of one comparison."""
        regressions = {getattr(change, "name", "memory") for change in found.regressions()}
        return cls({*slower(found), *larger(found), *failing(found)}, regressions)


def claims(home: Path) -> dict[str, Claims]:
    """What is said of each side against A."""

    def samples(side: str) -> Samples:
        return open_side(str(home / side)).samples

    base = samples("A")
    return {side: Claims.of(compare(base, samples(side))) for side in SIDES if side != "A"}


def slower(found: Changes) -> set[str]:
    """The operations and functions; both have the step's name."""
    return {change.name for change in (*found.operations, *found.functions) if change.verdict == "slower"}


def larger(found: Changes) -> set[str]:
    """Memory, which no side has more of."""
    return {f"memory of {change.service}" for change in found.memory if change.verdict == "more"}


def failing(found: Changes) -> set[str]:
    """What fails more often, which nothing does."""
    return {f"failures of {change.name}" for change in found.failures if change.verdict == "more"}


def count(found: Mapping[Path, tuple[str, Mapping[str, Claims]]]) -> common.Report:
    """The table and the bounds of all pairs."""
    table = common.Table(f"{len(found)} pairs, claims of --compare", ["", "found", "exit code 1", "invented"])
    rows: dict[str, list[float]] = {}
    for side, factor in list(SIDES.items())[1:]:
        right = sum(slow in claimed[side].said for slow, claimed in found.values()) if factor > 1 else 0
        over = sum(slow in claimed[side].failing for slow, claimed in found.values()) if factor > 1 else 0
        allowed = {home: {slow, ROOT} if factor > 1 else set() for home, (slow, _) in found.items()}
        invented = sum(len(claimed[side].said - allowed[home]) for home, (_, claimed) in found.items())
        rows[side] = [right, invented]
        table.rows.append([side, right if factor > 1 else "", over if factor > 1 else "", invented])
    bounds = [common.Bound(f"claims invented, {side}", rows[side][1], 0) for side in rows]
    bounds.append(common.Bound("of 30 %, found", rows["B + 30 %"][0] / len(found), 0.9, at_least=True))
    return common.Report([table], bounds)


def main() -> int:
    """Run the pairs and count."""
    parser = common.arguments(__doc__, rounds=8)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs, each of so many rounds (default {PAIRS})")
    parser.add_argument("--work", type=Path, help="keep the runs in this folder; pairs that it has are not made anew")
    options = parser.parse_args()
    folder = common.ensure("bench-perf")
    chance = random.Random(7)
    found = {}
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(options.pairs):
            home, slow = work / str(number), STEPS[number % len(STEPS)]
            if not complete(home, options.rounds):
                shutil.rmtree(home, ignore_errors=True)
                make(folder, home, slow, options.rounds, chance)
            found[home] = slow, claims(home)
    return count(found).finish(as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
