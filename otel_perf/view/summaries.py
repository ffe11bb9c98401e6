"""What the first screens show: findings, operations, functions, errors, and how far the index is."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.exponential import Counts
from otel_perf.analysis.functions import DURATION, NAMES
from otel_perf.analysis.index_metrics import counts_of
from otel_perf.analysis.index_tables import ALL, PER_DOUBLING
from otel_perf.store.database import SIGNALS
from otel_perf.view.reading import attributes_of
from otel_perf.view.traces import matching_operations, operation_name, selected

if TYPE_CHECKING:
    from otel_perf.view.reading import Question, Reading

OPERATIONS: Final = 100
FUNCTIONS: Final = 100
GROUPS: Final = 200  # of errors alike
FLAME_TRACES: Final = 200
FLAME_SPANS: Final = 20_000
DEEP: Final = 60  # frames
LONG: Final = 4  # whole hours, from which on a range is counted by the hour, and at its ends by the minute
_MINUTE: Final = 60 * 1_000_000_000
_SORTS: Final = {
    "self": "sum(self) DESC", "total": "sum(total) DESC", "count": "sum(count) DESC", "errors": "sum(errors) DESC",
    "longest": "max(longest) DESC",
}  # fmt: skip


def state(reading: Reading, _: Question) -> dict[str, Any]:
    """How much is here, of which services and time."""
    first, last = reading.extent()
    services = reading.rows("SELECT DISTINCT service FROM process")
    progress = reading.rows("SELECT signal, sum(last), sum(items) - sum(twice) FROM progress GROUP BY signal")
    counts = {SIGNALS[signal]: items for signal, _, items in progress}
    return {
        "services": sorted(reading.text(row[0]) for row in services),
        "first": first, "last": last, "items": counts,
        "findings": reading.row("SELECT count(*) FROM finding")[0],
        "traces": reading.row("SELECT max(id) FROM trace")[0] or 0,
    }  # fmt: skip


def findings(reading: Reading, question: Question) -> dict[str, Any]:
    """Findings of one kind at one line of a service, the costliest group first."""
    begin, end = question.times
    where, values = ["time BETWEEN ? AND ?"], [begin, end]
    if service := question.text("service"):
        where.append("service = ?")
        values.append(reading.number(service))
    rows = reading.rows(
        "SELECT service, kind, spot, count(*), count(DISTINCT nullif(trace, 0)), sum(cost), min(time), max(time)"
        f" FROM finding WHERE {' AND '.join(where)} GROUP BY service, kind, spot ORDER BY sum(cost) DESC LIMIT 200",
        values,
    )
    return {"findings": [_finding(reading, row, (begin, end)) for row in rows]}


def _finding(reading: Reading, row: tuple[Any, ...], times: tuple[int, int]) -> dict[str, Any]:
    """A group. What it shows is of one finding in it, the costliest, and so is the trace that it leads to."""
    service, kind, spot, count, traces, cost, first, last = row
    worst = reading.row(
        "SELECT cost, culprit, function, path, line, evidence, trace FROM finding WHERE service = ? AND kind = ?"
        " AND spot = ? AND time BETWEEN ? AND ? ORDER BY cost DESC, id LIMIT 1", (service, kind, spot, *times),
    )  # fmt: skip
    shown = dict(zip(("worst", "culprit", "function", "path", "line", "evidence"), worst, strict=False))
    return {
        "service": reading.text(service), "kind": kind, "spot": spot, "count": count, "traces": traces, "cost": cost,
        **shown, "trace": _tid(reading, worst[-1]), "first": first, "last": last,
    }  # fmt: skip


def _tid(reading: Reading, number: int) -> str:
    row = reading.row("SELECT tid FROM trace WHERE id = ?", (number,)) if number else ()
    return row[0].hex() if row else ""


def finding(reading: Reading, question: Question) -> dict[str, Any]:
    """One group: its costliest traces, and when they were."""
    begin, end = question.times
    group = reading.number(question.text("service")), question.text("kind"), question.text("spot", longest=2000)
    where = "service = ? AND kind = ? AND spot = ? AND time BETWEEN ? AND ?"
    rows = reading.rows(
        f"SELECT trace, cost, time, evidence, count FROM finding WHERE {where} ORDER BY cost DESC LIMIT 25",
        (*group, begin, end),
    )
    first, last = reading.row(f"SELECT min(time), max(time) FROM finding WHERE {where}", (*group, begin, end))
    width = max(1, ((last or 0) - (first or 0)) // 60 + 1)
    times = reading.rows(
        f"SELECT (time - ?) / ?, count(*), sum(cost) FROM finding WHERE {where} GROUP BY 1",
        (first or 0, width, *group, begin, end),
    )
    return {
        "traces": [
            {"trace": _tid(reading, trace), "cost": cost, "time": time, "evidence": evidence, "count": count}
            for trace, cost, time, evidence, count in rows
        ],
        "first": first, "width": width, "times": [list(row) for row in times],
    }  # fmt: skip


class _Slots:
    """Slots of the index that make up a range of time; what is only partly in it counts if its minute is."""

    def __init__(self, begin: int, end: int) -> None:
        first, last = begin // _MINUTE, end // _MINUTE
        hour, after = -(-first // 60), (last + 1) // 60
        self.width = 60
        self.parts = [(60, first, last)]
        if after - hour >= LONG:
            self.width = 3600
            self.parts = [(60, first, hour * 60 - 1), (3600, hour, after - 1), (60, after * 60, last)]

    @classmethod
    def of(cls, question: Question) -> _Slots:
        """As it is asked for; all time is one slot."""
        slots = cls(*question.times)
        if not question.is_bounded:
            slots.parts = [(ALL, 0, 0)]
        return slots

    def rows(self, table: str) -> str:
        """The table's rows that are in the range, as SQL."""
        return " UNION ALL ".join(
            f"SELECT * FROM {table} WHERE width = {width} AND slot BETWEEN {first} AND {last}"
            for width, first, last in self.parts
        )


def operations(reading: Reading, question: Question) -> dict[str, Any]:
    """Operations by their own time, total time, number, errors, or longest span."""
    sort = question.one_of("sort", _SORTS)
    slots = _Slots.of(question)
    chosen = ""
    if service := question.text("service"):
        chosen = f" AND op IN (SELECT id FROM operation WHERE service = {reading.number(service)})"
    if words := question.text("q").strip():
        found = matching_operations(reading, words, 500)
        chosen += f" AND op IN ({','.join(map(str, found)) or '-1'})"
    size = question.number("limit", OPERATIONS, most=OPERATIONS)
    rows = reading.rows(
        "SELECT op, sum(count), sum(errors), sum(total), sum(self), max(longest), longest_trace"
        f" FROM ({slots.rows('op_slot')}) WHERE 1{chosen} GROUP BY op ORDER BY {_SORTS[sort]} LIMIT ?",
        (size + 1,),
    )
    is_more, rows = len(rows) > size, rows[:size]
    quantiles = _quantiles(reading, slots, [row[0] for row in rows])
    return {
        "more": is_more,
        "operations": [
            {
                "op": op, **operation_name(reading, op), "count": count, "errors": errors, "total": total, "self": own,
                "p50": min(longest, quantiles[op][0]), "p99": min(longest, quantiles[op][1]), "longest": longest,
                "trace": _tid(reading, trace),
            }
            for op, count, errors, total, own, longest, trace in rows
        ],
    }  # fmt: skip


def _quantiles(reading: Reading, slots: _Slots, operations: list[int]) -> dict[int, tuple[int, int]]:
    buckets: dict[int, dict[int, int]] = defaultdict(dict)
    for op, bucket, count in reading.rows(
        f"SELECT op, bucket, sum(count) FROM ({slots.rows('op_hist')})"
        f" WHERE op IN ({','.join(map(str, operations))}) GROUP BY op, bucket"
    ):
        buckets[op][bucket] = count
    return {op: (_bound(buckets[op], 0.5), _bound(buckets[op], 0.99)) for op in operations}


def _bound(buckets: dict[int, int], share: float) -> int:
    """The middle of the bucket that ``share`` of the values reach."""
    wanted, seen = share * sum(buckets.values()), 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return int(2.0 ** ((bucket + 0.5) / PER_DOUBLING))
    return 0


def timeline(reading: Reading, question: Question) -> dict[str, Any]:
    """Requests and errors over time, and in all: of spans that serve."""
    chosen = "kind IN (2, 5)"
    if service := question.text("service"):
        chosen += f" AND service = {reading.number(service)}"
    serving = f"op IN (SELECT id FROM operation WHERE {chosen})"
    begin, end = question.times
    first, last = reading.extent()
    slots = _Slots(max(begin, first), min(end, last))
    rows = reading.rows(
        f"SELECT slot * width / ?, sum(count), sum(errors) FROM ({slots.rows('op_slot')}) WHERE {serving}"
        " GROUP BY 1 ORDER BY 1 LIMIT 5000", (slots.width,),
    )  # fmt: skip
    count, failed = reading.row(
        "SELECT coalesce(sum(count), 0), coalesce(sum(errors), 0)"
        f" FROM ({_Slots.of(question).rows('op_slot')}) WHERE {serving}"
    )
    return {
        "width": slots.width, "slots": [[slot * slots.width, *numbers] for slot, *numbers in rows],
        "count": count, "errors": failed,
    }  # fmt: skip


def errors(reading: Reading, question: Question) -> dict[str, Any]:
    """Errors of one type at one place of a service, the most frequent first."""
    begin, end = question.times
    where, values = "time BETWEEN ? AND ?", [begin, end]
    if service := question.text("service"):
        where += " AND service = ?"
        values.append(reading.number(service))
    rows = reading.rows(
        "SELECT service, type, spot, count(*), min(time), max(time) FROM error"
        f" WHERE {where} GROUP BY service, type, spot ORDER BY count(*) DESC LIMIT ?",
        (*values, question.number("limit", GROUPS, most=GROUPS)),
    )  # fmt: skip
    return {"errors": [_error(reading, row) for row in rows]}


def _error(reading: Reading, row: tuple[Any, ...]) -> dict[str, Any]:
    """Errors alike, with the message and the trace of the last of them."""
    service, kind, spot, count, first, last = row
    message, trace = reading.row(
        "SELECT message, trace FROM error WHERE service = ? AND type = ? AND spot = ? AND time = ? ORDER BY id DESC"
        " LIMIT 1", (service, kind, spot, last),
    )  # fmt: skip
    return {
        "service": reading.text(service), "type": kind, "spot": spot, "count": count, "last": last, "first": first,
        "message": message, "trace": _tid(reading, trace),
    }  # fmt: skip


def functions(reading: Reading, question: Question) -> dict[str, Any]:
    """Monitored functions since their processes started, the one with the most time of its own first."""
    marks = ",".join("?" * len(NAMES))
    where, values = "", []
    if service := question.text("service"):
        where, values = " AND series.service = ?", [reading.number(service)]
    rows = reading.rows(
        "SELECT text.value, series.service, kind, attributes, total, count, buckets FROM series"
        f" JOIN text ON text.id = series.name WHERE text.value IN ({marks}){where}",
        (*NAMES, *values),
    )
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[tuple[str, str], Counts] = defaultdict(Counts)
    for metric, service_number, kind, attributes, total, count, text in rows:
        name = str(attributes_of(attributes).get("code.function.name", "(all others)")) if attributes else "?"
        key = reading.text(service_number), name
        found[key][metric] += total
        if metric == DURATION:
            found[key]["calls"] += count
            if kind == "exponential_histogram":
                counts[key] = counts[key].plus(counts_of(text))
    shown: list[dict[str, Any]] = [
        {
            "service": key[0], "name": key[1], "calls": int(said["calls"] + said["perf.call.untimed"]),
            "errors": int(said["perf.call.errors"]), "total": said[DURATION], "self": said["perf.call.self_time"],
            "p50": min(said[DURATION], counts[key].quantile(0.5)),
            "p99": min(said[DURATION], counts[key].quantile(0.99)),
        }
        for key, said in found.items()
    ]  # fmt: skip
    words = question.text("q").strip().lower()
    shown = [row for row in shown if words in row["name"].lower()]
    shown.sort(key=lambda row: (-row["self"], -row["calls"], row["name"]))
    return {"functions": shown[:FUNCTIONS], "all": len(shown)}


def flame(reading: Reading, question: Question) -> dict[str, Any]:
    """Where the time of the slowest traces went, as a tree of operations: [op, number, total, own, children]."""
    tree: dict[int, Any] = {}
    traces = spans = 0
    slowest, _ = selected(reading, question.with_(sort="slowest", skip=""), "id", FLAME_TRACES)
    for (number,) in slowest:
        # Most spans are leaves, and of many siblings: only what has children is read one by one.
        rows = reading.rows(
            "SELECT parent, op, count(*), sum(took) FROM"
            " (SELECT parent, op, took FROM span INDEXED BY span_trace WHERE trace = ? LIMIT ?) GROUP BY parent, op",
            (number, FLAME_SPANS),
        )
        inner = reading.rows(
            "SELECT sid, parent, op FROM span INDEXED BY span_trace WHERE trace = ? AND sid IN"
            " (SELECT parent FROM span INDEXED BY span_child WHERE trace = ? AND parent <> 0) LIMIT ?",
            (number, number, FLAME_SPANS),
        )
        spans += sum(row[2] for row in rows)
        traces += 1
        _grow(tree, {sid: (parent, op) for sid, parent, op in inner}, rows)
        if spans > FLAME_SPANS:
            break
    names: dict[int, dict[str, Any]] = {}

    def packed(node: dict[int, Any]) -> list[Any]:
        found = []
        for op, (count, total, below) in sorted(node.items(), key=lambda item: -item[1][1])[:100]:
            if op not in names:
                names[op] = operation_name(reading, op)
            own = max(0, total - sum(child[1] for child in below.values()))
            found.append([op, count, total, own, packed(below)])
        return found

    return {"tree": packed(tree), "names": {str(op): name for op, name in names.items()}, "traces": traces}


def _grow(tree: dict[int, Any], inner: dict[int, tuple[int, int]], rows: list[tuple[int, ...]]) -> None:
    """Add one trace: of spans with children their parent and operation, and all spans by these two.

    What is deeper than ``DEEP`` stays a part of what is above it.
    """
    places: dict[int, tuple[dict[int, Any], int]] = {}  # where the children of a span go, and how deep that is

    def below(sid: int) -> tuple[dict[int, Any], int]:
        way: dict[int, int] = {}  # up to a span whose place is known, or that has no parent here
        while sid in inner and sid not in places and sid not in way:
            way[sid], sid = inner[sid][1], inner[sid][0]
        node, depth = places.get(sid, (tree, 0))
        for one, op in reversed(way.items()):
            if depth < DEEP:
                node = node.setdefault(op, [0, 0, {}])[2]
            depth += 1
            places[one] = node, depth
        return node, depth

    for parent, op, count, took in rows:
        node, depth = below(parent)
        if depth < DEEP:
            entry = node.setdefault(op, [0, 0, {}])
            entry[0] += count
            entry[1] += took
