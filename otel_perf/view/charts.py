"""Figures over time: memory, garbage collection, caches, event loops, with marks; and any metric by its name."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_perf.analysis.index_tables import POINT_WIDTHS
from otel_perf.view.reading import FOREVER, MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.view.reading import Question, Reading

STEPS: Final = 240  # points of a line, at most; half of them at least where steps are slots of the index
SERIES: Final = 12  # lines of a chart
MOST: Final = 1_000  # series that are looked at for a chart
MARKS: Final = 300
PROCESSES: Final = 5_000  # whose starts are looked at
BEFORE: Final = 150_000  # ms before a range, from which a value may still hold in it; most say theirs once a minute
HOLD: Final = 2  # usual intervals, after which a value that was not said again holds no more


Step = tuple[int, float, int]  # which one, what a series says in it, and when (ms)


class Panel(NamedTuple):
    """A chart: which metrics, and what is drawn of them."""

    key: str
    title: str
    unit: str  # UCUM, or "share": of one, shown as per cent
    metrics: tuple[str, ...]
    draw: str = "value"  # value, rate (a second), or high (of a histogram)
    by: str = ""  # an attribute that tells lines apart, besides the process


PANELS: Final = (
    Panel("memory", "Memory (RSS) and its limit", "By", ("process.memory.usage", "perf.memory.limit")),
    Panel("pressure", "Memory in use, of the limit", "share", ("perf.memory.utilization",)),
    Panel("cpu", "CPU cores in use", "1", ("process.cpu.time",), "rate"),
    Panel("pauses", "Longest GC pause", "s", ("perf.gc.pause",), "high"),
    Panel("lag", "Event-loop lag, longest", "s", ("perf.eventloop.lag",), "high"),
    Panel("collections", "GC collections a second", "1/s", ("cpython.gc.collections",), "rate"),
    Panel("entries", "Entries in caches", "1", ("perf.cache.size",), "value", "perf.cache.name"),
    Panel("threads", "Threads", "1", ("process.thread.count",)),
)
_HIT: Final = ("perf.cache.hits", "perf.cache.misses")


class Series(NamedTuple):
    """One series of the index."""

    number: int
    metric: str
    service: str
    scope: str
    instance: str
    attributes: str
    unit: str
    kind: str
    monotonic: int

    @property
    def is_total(self) -> bool:
        """Whether it only grows, so that its rate says something."""
        return self.kind == "sum" and bool(self.monotonic)

    @property
    def said(self) -> dict[str, Any]:
        """Its attributes."""
        found = json.loads(self.attributes or "{}")
        return found if isinstance(found, dict) else {}


class Asked:
    """The range, its steps (ms), and the service."""

    def __init__(self, reading: Reading, question: Question) -> None:
        self.reading = reading
        begin, end = question.times
        first, last = reading.extent()
        self.begin, self.end = max(begin, first) // MS, min(end, last) // MS
        self.step = max(1000, (self.end - self.begin) // STEPS)
        # A day is a quarter of a million points: of long steps the index has what is drawn, if they are whole slots.
        self._slot = max((width * 1000 for width in POINT_WIDTHS if width * 1000 <= 2 * self.step), default=0)
        if self._slot:
            self.step = -(-self.step // self._slot) * self._slot
            self.begin -= self.begin % self._slot
        self.service = reading.number(question.text("service")) if question.text("service") else None

    def series(self, names: tuple[str, ...], *, once: bool = True) -> list[Series]:
        """The series of these metrics; what two scopes say of one process ``once``: it has only one memory."""
        numbers = [self.reading.number(name) for name in names]
        where = "" if self.service is None else f" AND service = {self.service}"
        rows = self.reading.rows(
            f"SELECT min(id), name, service, scope, instance, attributes, unit, kind, monotonic FROM series"
            f" WHERE name IN ({','.join(map(str, numbers))}){where}"
            f" GROUP BY name, service, instance, attributes{'' if once else ', id'}"
            f" ORDER BY service, instance, attributes LIMIT {MOST}"  # the hits of a cache and its misses
        )
        text = self.reading.text
        return [Series(row[0], text(row[1]), text(row[2]), text(row[3]), *row[4:]) for row in rows]

    def steps(self, series: Iterable[Series], column: str = "value") -> dict[int, list[Step]]:
        """The highest value of each step, and of some before the first."""
        found: dict[int, list[Step]] = {}
        # SQLite's division goes to zero: the steps before the first are counted from the earliest.
        ahead = -(-BEFORE // self.step)
        begin, end, table = self.begin - ahead * self.step, self.end, "point WHERE time"
        if self._slot:
            begin, end = begin // self._slot, end // self._slot
            table = f"point_slot WHERE width = {self._slot // 1000} AND slot"
        at = table.rpartition(" ")[2]
        for one in series:
            rows = self.reading.rows(
                f"SELECT ({at} - ?) / ? - ?, max({column}), time FROM {table} BETWEEN ? AND ? AND series = ?"
                " GROUP BY 1 ORDER BY 1",  # the time is that of the highest value
                (begin, self.step // (self._slot or 1), ahead, begin, end, one.number),
            )
            found[one.number] = [row for row in rows if row[1] is not None]
        return found

    @property
    def last(self) -> int:
        """The last step."""
        return max(0, self.end - self.begin) // self.step


def charts(reading: Reading, question: Question) -> dict[str, Any]:
    """All panels, with marks."""
    asked = Asked(reading, question)
    panels = [_panel(asked, panel) for panel in PANELS]
    panels.insert(6, _hit_ratios(asked))
    return {
        "begin": asked.begin, "step": asked.step, "panels": [panel for panel in panels if panel["lines"]],
        "marks": _marks(asked),
    }  # fmt: skip


def _panel(asked: Asked, panel: Panel) -> dict[str, Any]:
    series = asked.series(panel.metrics)
    values = asked.steps(series, "high" if panel.draw == "high" else "value")
    drawn: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    labels = _labels(series)
    for one in series:
        label = labels[one.service, one.instance]
        if panel.by:
            label = f"{one.said.get(panel.by, '?')} · {one.service}"
        if one.metric.endswith(".limit"):
            label += " limit"
        line = drawn[label]
        if panel.draw == "high":
            for step, value, _ in values[one.number]:
                if step >= 0:
                    line[step] = max(line[step], value)
            continue
        points = values[one.number]
        for step, value in (_rates(points, asked) if panel.draw == "rate" else _held(points, asked)).items():
            line[step] += value
    return _made(panel.key, panel.title, panel.unit, drawn)


def _made(key: str, title: str, unit: str, drawn: dict[str, dict[int, float]]) -> dict[str, Any]:
    """The lines with the highest values."""
    kept = sorted(drawn.items(), key=lambda item: -max(item[1].values(), default=0.0))[:SERIES]
    lines = [{"label": label, "points": sorted(line.items())} for label, line in sorted(kept) if line]
    return {"key": key, "title": title, "unit": unit, "lines": lines, "more": max(0, len(drawn) - SERIES)}


def _labels(series: list[Series]) -> dict[tuple[str, str], str]:
    """By service and process: the service; where there are several of it with what tells the processes apart."""
    instances: dict[str, set[str]] = defaultdict(set)
    for one in series:
        instances[one.service].add(one.instance)
    labels = {}
    for service, found in instances.items():
        # Random ids differ at their beginning, those of pods and of workers at their end.
        ways: tuple[Callable[[str], str], ...] = (lambda text: text[:8], lambda text: text[-8:], str)
        short = next(way for way in ways if len(set(map(way, found))) == len(found))
        for instance in found:
            labels[service, instance] = f"{service} {short(instance)}" if len(found) > 1 else service
    return labels


def _usual(points: list[Step]) -> int:
    """How many steps there usually are from a point to the next."""
    return max(1, round(median(after - before for (before, *_), (after, *_) in pairwise(points)))) if points[1:] else 1


def _held(points: list[Step], asked: Asked) -> dict[int, float]:
    """A value holds until the next one, but not for long after a process has gone silent.

    Processes do not say theirs at the same time, and are added up.
    """
    found: dict[int, float] = {}
    hold = HOLD * _usual(points)
    for (begin, value, _), after in zip(points, [*(at for at, _, _ in points[1:]), asked.last + 1], strict=False):
        for at in range(max(0, begin), min(after, begin + hold)):
            found[at] = value
    return found


def _rates(points: list[Step], asked: Asked) -> dict[int, float]:
    """How much a total grew a second, in all steps from a point to the next, and as long after as a value holds."""
    found: dict[int, float] = {}
    for before, last, rate in _growth(points):
        for at in range(before + 1 if before >= 0 else 0, last + 1):
            found[at] = rate
    last = points[-1][0] if points else -1
    if last in found and last < asked.last:  # others have said theirs since
        for at in range(last + 1, min(asked.last + 1, last + HOLD * _usual(points))):
            found[at] = found[last]
    return found


def _growth(points: list[Step]) -> list[tuple[int, int, float]]:
    """A step, the next one, and how much a second; nothing where it went down: the process was started again."""
    return [
        (step, after, (value - before) * 1000 / ((time - since) or 1))
        for (step, before, since), (after, value, time) in pairwise(points)
        if value >= before
    ]


def _hit_ratios(asked: Asked) -> dict[str, Any]:
    series = asked.series(_HIT)
    values = asked.steps(series)
    grown: dict[str, tuple[dict[int, float], dict[int, float]]] = defaultdict(lambda: ({}, {}))
    for one in series:
        line = grown[f"{one.said.get('perf.cache.name', '?')} · {one.service}"][_HIT.index(one.metric)]
        for step, value in _rates(values[one.number], asked).items():
            line[step] = line.get(step, 0.0) + value
    drawn: dict[str, dict[int, float]] = {label: {} for label in grown}
    for label, (hits, misses) in grown.items():
        for step in hits.keys() | misses.keys():
            hit = hits.get(step, 0.0)
            if asked_for := hit + misses.get(step, 0.0):
                drawn[label][step] = hit / asked_for
    return _made("hits", "Cache hit ratio", "share", drawn)


def _marks(asked: Asked) -> list[dict[str, Any]]:
    """Pressure, tuning and changes of features; starts of processes, and of new versions."""
    where = "" if asked.service is None else f" AND service = {asked.service}"
    rows = asked.reading.rows(
        f"SELECT time, kind, service, text FROM mark WHERE time BETWEEN ? AND ?{where}"
        f" ORDER BY time DESC LIMIT {MARKS}",
        (asked.begin * MS, min((asked.end + 1) * MS, FOREVER)),
    )
    found = [
        {"time": time, "kind": kind, "service": asked.reading.text(service), "text": text}
        for time, kind, service, text in rows
    ]  # fmt: skip
    versions: dict[int, str] = {}
    processes = asked.reading.rows(
        "SELECT service, instance, version, first FROM process"
        f" WHERE first > 0{where} ORDER BY first DESC LIMIT {PROCESSES}"
    )
    for service, instance, version, first in reversed(processes):
        is_new = service in versions and versions[service] != version and version
        versions[service] = version
        if not asked.begin <= first // MS <= asked.end:
            continue
        kind = "deploy" if is_new else "start"
        what = (
            f"version {version} deployed" if is_new else f"process {instance[:8]} started {version and f'({version})'}"
        )
        name = asked.reading.text(service)
        found.append({"time": first, "kind": kind, "service": name, "text": what})
    return sorted(found, key=lambda mark: -int(str(mark["time"])))[:MARKS]


def metrics(reading: Reading, _: Question) -> dict[str, Any]:
    """The names of all metrics."""
    rows = reading.rows(
        "SELECT text.value, count(*), max(unit), max(kind) FROM series JOIN text ON text.id = series.name"
        " GROUP BY 1 ORDER BY 1 LIMIT 1000"
    )
    return {"metrics": [{"name": n, "series": c, "unit": unit, "kind": kind} for n, c, unit, kind in rows]}


def metric(reading: Reading, question: Question) -> dict[str, Any]:
    """One metric, a line for each series: the rate of a total, the highest of a histogram, else the value."""
    asked, name = Asked(reading, question), question.text("name")
    every = asked.series((name,), once=False)
    series = every[:60]
    kind = series[0].kind if series else "gauge"
    is_total = bool(series) and all(one.is_total for one in series)
    values = asked.steps(series, "high" if kind.endswith("histogram") else "value")
    drawn: dict[str, dict[int, float]] = {}
    labels, several = _labels(series), len({one.scope for one in series}) > 1
    for one in series:
        label = labels[one.service, one.instance] + (f" · {one.scope}" if several else "")
        said = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in one.said.items())
        if f"{label} {said}".strip() in drawn:  # names that end alike
            said = ", ".join(f"{key}={value}" for key, value in one.said.items())
        points = [(at, value) for at, value, _ in values[one.number]]
        if is_total:
            points = [(at, rate) for _, at, rate in _growth(values[one.number])]
        drawn[f"{label} {said}".strip()] = {at: value for at, value in points if at >= 0}
    unit = series[0].unit if series else ""
    panel = _made(name, name, f"{unit}/s" if is_total else unit, drawn)
    panel["more"] += len(every) - len(series)
    return {"begin": asked.begin, "step": asked.step, "panels": [panel], "marks": []}
