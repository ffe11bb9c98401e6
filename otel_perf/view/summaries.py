"""What the first screens show: findings, operations, functions, errors, and how far the index is."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.functions import DURATION, NAMES, bucket_quantile
from otel_perf.analysis.index_tables import PER_DOUBLING, WIDTHS
from otel_perf.store.database import SIGNALS
from otel_perf.view.reading import attributes_of
from otel_perf.view.traces import listed, matching_operations, operation_name

if TYPE_CHECKING:
    from otel_perf.view.reading import Question, Reading

OPERATIONS: Final = 100
FUNCTIONS: Final = 100
GROUPS: Final = 200  # of errors alike
FLAME_TRACES: Final = 200
FLAME_SPANS: Final = 20_000
DEEP: Final = 60  # frames
_LONG: Final = 6 * 3600 * 1_000_000_000  # ranges from here on are counted by the hour
_SORTS: Final = {
    "self": "sum(self) DESC", "total": "sum(total) DESC", "count": "sum(count) DESC", "errors": "sum(errors) DESC",
    "longest": "max(longest) DESC",
}  # fmt: skip


def state(reading: Reading, _: Question) -> dict[str, Any]:
    """How much is here, of which services and time."""
    spans = reading.row("SELECT (SELECT min(start) FROM trace WHERE start > 0), (SELECT max(start) FROM trace)")
    logs = reading.row(
        "SELECT (SELECT min(time) FROM log WHERE own = 0 AND time > 0), (SELECT max(time) FROM log WHERE own = 0)"
    )
    points = reading.row("SELECT min(first), max(last) FROM process WHERE first > 0")
    times = [time for time in (*spans, *logs, *points) if time]
    services = reading.rows("SELECT DISTINCT service FROM process")
    progress = reading.rows("SELECT signal, sum(last), sum(items) FROM progress GROUP BY signal")
    counts = {SIGNALS[signal]: items for signal, _, items in progress}
    return {
        "services": sorted(reading.text(row[0]) for row in services),
        "first": min(times, default=0), "last": max(times, default=0), "items": counts,
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
        "SELECT service, kind, spot, count(*), count(DISTINCT trace), sum(cost), min(time), max(time)"
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


def _slots(question: Question) -> tuple[int, int, int]:
    """The width of slots for a range, and the first and last of them."""
    begin, end = question.times
    width = WIDTHS[1] if end - begin >= _LONG else WIDTHS[0]
    return width, begin // (width * 1_000_000_000), end // (width * 1_000_000_000)


def operations(reading: Reading, question: Question) -> dict[str, Any]:
    """Operations by their own time, total time, number, errors, or longest span."""
    sort = question.one_of("sort", _SORTS)
    slots = _slots(question)
    chosen = ""
    if service := question.text("service"):
        chosen = f" AND op IN (SELECT id FROM operation WHERE service = {reading.number(service)})"
    if words := question.text("q").strip():
        found = matching_operations(reading, words, 500)
        chosen += f" AND op IN ({','.join(map(str, found)) or '-1'})"
    size = question.number("limit", OPERATIONS, most=OPERATIONS)
    rows = reading.rows(
        "SELECT op, sum(count), sum(errors), sum(total), sum(self), max(longest), longest_trace FROM op_slot"
        f" WHERE width = ? AND slot BETWEEN ? AND ?{chosen} GROUP BY op ORDER BY {_SORTS[sort]} LIMIT ?",
        (*slots, size + 1),
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


def _quantiles(reading: Reading, slots: tuple[int, int, int], operations: list[int]) -> dict[int, tuple[int, int]]:
    buckets: dict[int, dict[int, int]] = defaultdict(dict)
    for op, bucket, count in reading.rows(
        "SELECT op, bucket, sum(count) FROM op_hist WHERE width = ? AND slot BETWEEN ? AND ?"
        f" AND op IN ({','.join(map(str, operations))}) GROUP BY op, bucket", slots,
    ):  # fmt: skip
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
    """Requests and errors over time: of spans that serve."""
    width, first, last = _slots(question)
    chosen = " AND kind IN (2, 5)"
    if service := question.text("service"):
        chosen += f" AND service = {reading.number(service)}"
    rows = reading.rows(
        "SELECT slot, sum(count), sum(errors) FROM op_slot WHERE width = ? AND slot BETWEEN ? AND ?"
        f" AND op IN (SELECT id FROM operation WHERE 1{chosen}) GROUP BY slot ORDER BY slot LIMIT 5000",
        (width, first, last),
    )
    return {"width": width, "slots": [[slot * width, count, errors] for slot, count, errors in rows]}


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
        "SELECT text.value, series.service, attributes, total, count, buckets FROM series"
        f" JOIN text ON text.id = series.name WHERE text.value IN ({marks}){where}",
        (*NAMES, *values),
    )
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    buckets: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    scale = 3
    for metric, service_number, attributes, total, count, text in rows:
        name = str(attributes_of(attributes).get("code.function.name", "(all others)")) if attributes else "?"
        key = reading.text(service_number), name
        found[key][metric] += total
        if metric == DURATION:
            found[key]["calls"] += count
            if text:
                parsed = json.loads(text)
                scale = parsed["scale"]
                buckets[key].update({int(index): number for index, number in parsed["counts"].items()})
    shown: list[dict[str, Any]] = [
        {
            "service": key[0], "name": key[1], "calls": int(said["calls"] + said["perf.call.untimed"]),
            "errors": int(said["perf.call.errors"]), "total": said[DURATION], "self": said["perf.call.self_time"],
            "p50": min(said[DURATION], bucket_quantile(buckets[key], scale, 0.5)),
            "p99": min(said[DURATION], bucket_quantile(buckets[key], scale, 0.99)),
        }
        for key, said in found.items()
    ]  # fmt: skip
    words = question.text("q").strip().lower()
    shown = [row for row in shown if words in row["name"].lower()]
    shown.sort(key=lambda row: (-row["self"], -row["calls"], row["name"]))
    return {"functions": shown[:FUNCTIONS], "all": len(shown)}


def flame(reading: Reading, question: Question) -> dict[str, Any]:
    """Where the time of the slowest traces went, as a tree of operations: [op, number, total, own, children]."""
    tids = [row["trace"] for row in listed(reading, question.with_(sort="slowest", limit=str(FLAME_TRACES)))["traces"]]
    tree: dict[int, Any] = {}
    spans = 0
    for tid in tids:
        number = reading.row("SELECT id FROM trace WHERE tid = ?", (bytes.fromhex(tid),))[0]
        rows = reading.rows(
            "SELECT sid, parent, op, took FROM span WHERE trace = ? ORDER BY start LIMIT 5000", (number,)
        )
        spans += len(rows)
        _grow(tree, rows)
        if spans > FLAME_SPANS:
            break
    names: dict[int, dict[str, Any]] = {}

    def packed(node: dict[int, Any]) -> list[Any]:
        found = []
        for op, (count, total, below) in sorted(node.items(), key=lambda item: -item[1][1])[:100]:
            if op not in names:
                names[op] = operation_name(reading, op)
            children = packed(below)
            own = max(0, total - sum(child[2] for child in children))
            found.append([op, count, total, own, children])
        return found

    return {"tree": packed(tree), "names": {str(op): name for op, name in names.items()}, "traces": len(tids)}


def _grow(tree: dict[int, Any], rows: list[tuple[int, ...]]) -> None:
    """Add the spans of one trace."""
    parents = {sid: (parent, op) for sid, parent, op, _ in rows}
    for sid, parent, op, took in rows:
        path, seen, at = [op], {sid}, parent
        while at in parents and at not in seen and len(path) < DEEP:
            seen.add(at)
            at, above = parents[at]
            path.append(above)
        node = tree
        for step in reversed(path[1:]):
            node = node.setdefault(step, [0, 0, {}])[2]
        entry = node.setdefault(op, [0, 0, {}])
        entry[0] += 1
        entry[1] += took
