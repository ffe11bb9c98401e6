"""Runs of a program on a machine that others use too, as far as their durations go.

As was measured of benchmarks/programs/orders.py where other programs took most of two CPUs: medians of runs differ by
17 %, their p5 by 2 to 5; runs that follow each other resemble each other; a few are much slower, and within a run some spans
take many times as long as the rest. A sleep hardly knows of any of it.
"""

import math

from otel_perf.analysis.otlp import Point, SpanRecord

STEPS = {"parse": 2e-3, "find": 1e-3, "price": 2e-3, "fetch": 3e-3, "render": 1.5e-3, "pay": 1e-3}
SLEEPS = {"fetch"}
ROOT = "order"
SPANS = 80
LIKE_BEFORE = 0.7  # how much of how busy the machine is the next run keeps
STAYS = 0.9  # how likely the next order meets the machine as this one did
BUSY = 1.6  # how much longer all takes while it is busy
OWN = 0.02  # standard deviation of a step between runs, in logarithms: how its memory lies
RSS = 80e6  # bytes


class Machine:
    """One that is faster and slower by itself."""

    def __init__(self, chance):
        self._chance = chance
        self._state = chance.gauss(0, 1)
        self._now = 1_700_000_000 * 10**9
        self._ids = 0

    def run(self, slow="", factor=1.0, *, orders=SPANS, pause=0.0):
        """The spans of one run, in which ``slow`` takes ``factor`` times as long."""
        chance = self._chance
        speeds = {name: math.exp(chance.gauss(0, OWN)) for name in STEPS}
        resource = {"service.name": "orders", "service.instance.id": f"{self._now}"}
        self._move(LIKE_BEFORE)
        busy = chance.random() < self._share()
        for _ in range(orders):
            if chance.random() > STAYS:
                busy = chance.random() < self._share()
            begin, trace, root = self._now, self._id(), self._id()
            for name, usual in STEPS.items():
                took = usual * speeds[name] * (factor if name == slow else 1.0)
                if name not in SLEEPS:
                    took *= (BUSY if busy else 1.0) * (1 + 0.01 * chance.paretovariate(1.5))
                yield self._span(name, trace, root, self._now, self._now + round(took * 1e9), resource)
                self._now += round(took * 1e9)
            yield self._span(ROOT, trace, "", begin, self._now, resource, root)
            self._now += round(pause * 1e9)
            if pause:
                self._move(0.98)
        self._now += 10**9

    def _move(self, kept):
        self._state = kept * self._state + math.sqrt(1 - kept**2) * self._chance.gauss(0, 1)

    def _share(self):
        return 1 / (1 + math.exp(-1.5 * self._state))

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


def points(spans, chance, *, memory=1.0, every=60.0, delta=False):
    """What the metrics say of the same runs, every so many seconds: each span is a call of a function of its name."""
    by_run = {}
    for span in spans:
        by_run.setdefault(span.resource["service.instance.id"], []).append(span)
    found = []
    for of_run in by_run.values():
        rss = RSS * memory * math.exp(chance.gauss(0, 0.01))
        totals, due = {}, of_run[0].start + round(every * 1e9)
        for span in sorted(of_run, key=lambda span: span.end):
            if span.end > due:
                found += said(totals, due, span.resource, rss * chance.uniform(0.9, 1), delta=delta)
                due += round(every * 1e9)
            of_name = totals.setdefault(span.name, [0, 0.0, 0.0])
            of_name[0] += 1
            of_name[1] += span.seconds
            of_name[2] += 0.0 if span.name == ROOT else span.seconds
        found += said(totals, max(span.end for span in of_run) + 10**6, of_run[0].resource, rss, delta=delta)
    return found


def said(totals, time, resource, rss, *, delta=False):
    """One collection of one process; ``totals`` are calls, seconds and seconds of its own by function."""
    found = [Point("process.memory.usage", "By", time, rss, 1, {}, "test", resource)]
    for name, (count, took, own) in totals.items():
        of = {"code.function.name": name}
        found.append(Point("perf.call.duration", "s", time, took, count, of, "test", resource, delta))
        found.append(Point("perf.call.self_time", "s", time, own, 1, of, "test", resource, delta))
    if delta:
        totals.clear()
    return found


def steady(steps, *, runs=5, spans=40, failing=0, service="orders", since=0, **resource):
    """Spans of runs that are all alike: seconds by step. So many of each step fail, in a tenth of the time."""
    now, found = (1_700_000_000 + since) * 10**9, []
    for run in range(runs):
        owner = {"service.name": service, "service.instance.id": f"{service}-{since}-{run}", **resource}
        for number in range(spans):
            for name, took in steps.items():
                fails = number < failing
                end = now + round(took * (0.1 if fails else 1.0) * 1e9)
                span_id = f"{len(found) + since * 10**6 + 1:016x}"
                found.append(
                    SpanRecord(span_id, span_id, "", name, "INTERNAL", now, end, fails, "", {}, (), "test", owner)
                )
                now = end
        now += 10**9
    return found
