"""Runs of a program on a machine that others use too, as far as their durations go.

What was measured of benchmarks/programs/orders.py on such a machine: runs that follow each other resemble each other,
a few are much slower than the others, and within a run some spans take many times as long as the rest.
"""

import math

from otel_perf.analysis.otlp import SpanRecord

STEPS = {"parse": 2e-3, "find": 1e-3, "price": 2e-3, "fetch": 3e-3, "render": 1.5e-3, "pay": 1e-3}
ROOT = "order"
MACHINE = 0.10  # standard deviation of how fast a run is, in logarithms
LIKE_BEFORE = 0.7  # how much of it the next run keeps
OWN = 0.03  # of a single step of a run beside it
SPANS = 40


class Machine:
    """One that is faster and slower by itself."""

    def __init__(self, chance):
        self._chance = chance
        self._state = chance.gauss(0, MACHINE)
        self._now = 1_700_000_000 * 10**9
        self._ids = 0

    def run(self, slow="", factor=1.0):
        """The spans of one run, in which ``slow`` takes ``factor`` times as long."""
        chance = self._chance
        kept = math.sqrt(1 - LIKE_BEFORE**2)
        self._state = LIKE_BEFORE * self._state + kept * chance.gauss(0, MACHINE)
        busy = chance.paretovariate(3) if chance.random() < 0.1 else 1.0  # somebody else's job
        speeds = {name: math.exp(self._state + chance.gauss(0, OWN)) * busy for name in STEPS}
        resource = {"service.name": "orders", "service.instance.id": f"{self._now}"}
        for _ in range(SPANS):
            begin, trace = self._now, self._id()
            root = self._id()
            for name, usual in STEPS.items():
                took = usual * speeds[name] * (1 + 0.05 * chance.paretovariate(1.5)) * (factor if name == slow else 1)
                yield self._span(name, trace, root, self._now, self._now + round(took * 1e9), resource)
                self._now += round(took * 1e9)
            yield self._span(ROOT, trace, "", begin, self._now, resource, root)
        self._now += 10**9

    def _id(self):
        self._ids += 1
        return f"{self._ids:016x}"

    def _span(self, name, trace, parent, start, end, resource, own=None):
        return SpanRecord(
            trace, own or self._id(), parent, name, "INTERNAL", start, end, False, "", {}, (), "test", resource
        )


def sides(chance, runs, slow="", factor=1.0):
    """The spans of ``runs`` runs on each side, taken in turn, by chance one or the other first."""
    machine, base, seen = Machine(chance), [], []
    for _ in range(runs):
        turn = [(base, "", 1.0), (seen, slow, factor)]
        chance.shuffle(turn)
        for side, name, by in turn:
            side += machine.run(name, by)
    return base, seen
