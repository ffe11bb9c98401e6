"""Traces: lists of them, one as a waterfall with its critical path and log lines, and one span in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.index_tables import ALL, ERROR, SIGNAL, hexadecimal
from otel_perf.analysis.otlp import KINDS, log_at, spans_at
from otel_perf.analysis.readiness import Signals
from otel_perf.core.critical_path import critical_path

if TYPE_CHECKING:
    from otel_perf.view.reading import Question, Reading

SPANS: Final = 10_000  # of one trace that are shown
LINES: Final = 500  # of one trace
SIGNALS: Final = 200  # of one trace whose names are read from the store
BATCHES: Final = 20  # of the store that are read for them
FEW: Final = 20_000  # rows that are sorted rather than walked by an index
SLOWEST: Final = 1_000  # spans of an operation, of a range, whose traces are listed where it has many
EXACT: Final = (1 << 53) - 1  # whole numbers that JavaScript's can be
_COLUMNS: Final = "id, tid, start, finish, root, spans, errors, logs, findings, cost"
_FINDING: Final = ("kind", "spot", "culprit", "function", "path", "line", "cost", "count", "evidence")
_SORTS: Final = {"slowest": "finish - start DESC", "newest": "start DESC", "costliest": "cost DESC"}


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree."""

    index: int
    sid: int
    parent: int
    start: int
    end: int
    children: list[Node] = field(default_factory=list)


def listed(reading: Reading, question: Question) -> dict[str, Any]:
    """Traces in a range of time, the slowest, newest or costliest first; with an operation, or of a root's service."""
    size = question.number("limit", 50, most=200)
    rows, slowest = selected(reading, question, _COLUMNS, size + 1)
    return {"traces": [_row(reading, row) for row in rows[:size]], "more": len(rows) > size, "slowest": slowest}


def selected(reading: Reading, question: Question, columns: str, size: int) -> tuple[list[tuple[Any, ...]], int]:
    """These columns of the traces that are asked for, in order.

    And of how many of the slowest spans of an operation these are the traces, where not of all: else 0.
    """
    sort = question.one_of("sort", _SORTS)
    begin, end = question.times
    where, values = ["start BETWEEN ? AND ?", "spans > 0"], [begin, end]
    numbers, roots, cut = None, _roots(reading, question), False
    operation = question.number("operation", 0)
    if operation and not _is_root(reading, operation):
        (numbers, cut), roots = _having(reading, question, [operation]), None
    if roots is not None:
        where.append(f"root IN ({','.join(map(str, roots))})")
    if question.text("failed"):
        where.append("errors > 0")
    if least := question.nanoseconds("least"):
        where.append("finish - start >= ?")
        values.append(least)
    if words := question.text("q").strip():
        by_words, cut_too = _by_words(reading, question, words)
        cut = cut or cut_too
        numbers = by_words if numbers is None else numbers & by_words
    if numbers is not None:
        where.append(f"id IN ({','.join(map(str, sorted(numbers)))})")
    plan = "" if numbers is not None else _plan(reading, question, sort, roots)
    rows = reading.rows(
        f"SELECT {columns} FROM trace {plan} WHERE {' AND '.join(where)} ORDER BY {_SORTS[sort]} LIMIT ? OFFSET ?",
        (*values, size, question.number("skip", 0, most=10_000)),
    )
    return rows, SLOWEST if cut else 0


def _plan(reading: Reading, question: Question, sort: str, roots: list[int] | None) -> str:
    """Which index SQLite takes: it cannot know how many traces a range of time or an operation has."""
    if _are_few(reading, question):
        return "INDEXED BY trace_start"
    if sort == "slowest":
        return "INDEXED BY trace_root" if roots is not None and len(roots) == 1 else "INDEXED BY trace_took"
    return "INDEXED BY trace_start" if sort == "newest" else ""


def _are_few(reading: Reading, question: Question) -> bool:
    """Whether a range of time is asked for that has few traces."""
    if not question.is_bounded:
        return False
    query = f"SELECT count(*) FROM (SELECT 1 FROM trace WHERE start BETWEEN ? AND ? LIMIT {FEW})"
    return bool(reading.row(query, question.times)[0] < FEW)


def _roots(reading: Reading, question: Question) -> list[int] | None:
    """The operations that the root may be; ``None`` for any."""
    service, operation = question.text("service"), question.number("operation", 0)
    if operation:
        return [operation]
    if not service:
        return None
    rows = reading.rows("SELECT id FROM operation WHERE service = ?", (reading.number(service),))
    return [row[0] for row in rows] or [-1]


def _is_root(reading: Reading, operation: int) -> bool:
    """Whether all spans of an operation are the roots of their traces, so that those are all that there are."""
    spans = reading.row("SELECT count FROM op_slot WHERE width = ? AND slot = 0 AND op = ?", (ALL, operation))
    roots = reading.row("SELECT count(*) FROM trace INDEXED BY trace_root WHERE root = ?", (operation,))
    return bool(spans and spans[0] <= roots[0])


def _having(reading: Reading, question: Question, operations: list[int]) -> tuple[set[int], bool]:
    """Traces with a span of one of the operations: all of a range that has few, else those with the slowest spans.

    And whether there may be others.
    """
    if _are_few(reading, question):
        rows = reading.rows(
            "SELECT DISTINCT trace.id FROM trace INDEXED BY trace_start CROSS JOIN span INDEXED BY span_trace"
            " ON span.trace = trace.id WHERE trace.start BETWEEN ? AND ?"
            f" AND span.op IN ({','.join(map(str, operations))})", question.times,
        )  # fmt: skip
        return {row[0] for row in rows}, False
    found: set[int] = set()
    cut = False
    # The slowest of all may be in another range; the index is walked until there are as many of this one.
    within = " AND start BETWEEN ? AND ?" if question.is_bounded else ""
    query = f"SELECT trace FROM span INDEXED BY span_op WHERE op = ?{within} ORDER BY took DESC LIMIT {SLOWEST}"
    for operation in operations:
        rows = reading.rows(query, (operation, *(question.times if within else ())))
        found.update(row[0] for row in rows)
        cut = cut or len(rows) == SLOWEST
    return found, cut


def _by_words(reading: Reading, question: Question, words: str) -> tuple[set[int], bool]:
    """Traces that have a trace id, or a span of a name, that is like ``words``; and whether there may be others."""
    if len(words) == 32 and set(words.lower()) <= set("0123456789abcdef"):
        return {row[0] for row in reading.rows("SELECT id FROM trace WHERE tid = ?", (bytes.fromhex(words),))}, False
    return _having(reading, question, matching_operations(reading, words, 20))


def matching_operations(reading: Reading, words: str, most: int) -> list[int]:
    """Operations whose name has ``words`` in it."""
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    rows = reading.rows(
        "SELECT operation.id FROM operation JOIN text ON text.id = operation.name"
        " WHERE text.value LIKE ? ESCAPE '\\' LIMIT ?", (f"%{escaped}%", most),
    )  # fmt: skip
    return [row[0] for row in rows]


def operation_name(reading: Reading, number: int) -> dict[str, Any]:
    """Service, name and kind."""
    row = reading.row("SELECT service, name, kind FROM operation WHERE id = ?", (number,))
    if not row:
        return {"service": "", "name": "(unknown)", "kind": ""}
    kind = KINDS[row[2]] if 0 <= row[2] < len(KINDS) else KINDS[0]
    return {"service": reading.text(row[0]), "name": reading.text(row[1]), "kind": kind}


def _row(reading: Reading, row: tuple[Any, ...]) -> dict[str, Any]:
    _, tid, start, finish, root, spans, errors, logs, findings, cost = row
    return {
        "trace": tid.hex(), "start": start, "took": finish - start, **operation_name(reading, root), "spans": spans,
        "errors": errors, "logs": logs, "findings": findings, "cost": cost,
    }  # fmt: skip


def trace(reading: Reading, question: Question) -> dict[str, Any]:
    """One trace: its spans as a tree in order, what the critical path spends in each, findings and log lines.

    A span that is on the path has ``path``; what its operation is called is in ``names``.
    """
    tid = question.identifier("trace")
    row = reading.row(f"SELECT {_COLUMNS} FROM trace WHERE tid = ?", (tid,))
    if not row or not row[5]:
        return {"missing": True}
    rows = reading.rows(
        "SELECT sid, parent, op, start, took, flags, place, pos FROM span WHERE trace = ? ORDER BY start, took DESC"
        " LIMIT ?", (row[0], SPANS),
    )  # fmt: skip
    nodes = [Node(i, r[0], r[1], r[3], r[3] + r[4]) for i, r in enumerate(rows)]
    roots, order = _tree(nodes)
    on_path: dict[int, list[tuple[int, int]]] = {}
    if roots:
        longest = max(roots, key=lambda node: node.end - node.start)
        for visit in critical_path(longest, lambda node: node.children):
            on_path[visit.node.index] = visit.own
    begin = min(r[3] for r in rows)
    said = _signals(reading, rows)
    spans = []
    for node, depth in order:
        _, _, operation, start, took, flags, place, pos = rows[node.index]
        # Without what is as for most spans: there may be ten thousand.
        shown: dict[str, Any] = {
            "span": hexadecimal(node.sid), "depth": depth, "op": operation, "start": start - begin, "took": took,
            "at": [place, pos],
        }  # fmt: skip
        if flags & ERROR:
            shown["failed"] = True
        if node.index in on_path:
            shown["path"] = [[a - begin, b - a] for a, b in on_path[node.index]]
        if (place, pos) in said:
            shown["signal"] = said[place, pos]
        spans.append(shown)
    findings = [
        dict(zip(_FINDING, f[:9], strict=True))
        | {"span": hexadecimal(f[9])}
        for f in reading.rows(
            f"SELECT {', '.join(_FINDING)}, sid FROM finding WHERE trace = ?"
            " ORDER BY cost DESC LIMIT 100", (row[0],),
        )
    ]  # fmt: skip
    names = {str(operation): operation_name(reading, operation) for operation in {r[2] for r in rows}}
    return {
        **_row(reading, row), "start": begin, "list": spans, "names": names, "cut": max(0, row[5] - len(rows)),
        "faults": findings, "lines": _lines(reading, row[0], begin),
    }  # fmt: skip


def _signals(reading: Reading, rows: list[tuple[Any, ...]]) -> dict[tuple[int, int], dict[str, Any]]:
    """By the place of their spans: which signals were emitted or waited for, and how that ended."""
    places: dict[int, list[int]] = {}
    for row in [row for row in rows if row[5] & SIGNAL][:SIGNALS]:
        places.setdefault(row[6], []).append(row[7])
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for place, positions in list(places.items())[:BATCHES]:
        body = reading.body(place)
        for position, span in (spans_at(body, positions) if body is not None else {}).items():
            one = Signals()
            one.add(span)
            here = one.readiness(1)
            for wait in here.waits:
                is_ready = wait.outcome == "ready"
                end = (
                    f"{wait.last} by {wait.emitter}"
                    if is_ready
                    else f"{wait.outcome}, missing {', '.join(wait.missing)}"
                )
                found[place, position] = {"waits": True, "names": wait.names, "bad": not is_ready, "end": end}
            for emission in here.emissions:
                is_ready = emission.state == "ready"
                end = "" if is_ready else f"{emission.state}: {emission.reason}"
                found[place, position] = {"waits": False, "names": [emission.name], "bad": not is_ready, "end": end}
    return found


def _lines(reading: Reading, trace_number: int, begin: int) -> list[dict[str, Any]]:
    rows = reading.rows(
        "SELECT time, severity, event, sid, body, place, pos FROM log WHERE trace = ? AND trace > 0"
        " ORDER BY time LIMIT ?",
        (trace_number, LINES),
    )
    return [
        {"at": time - begin, "severity": severity, "event": reading.text(event), "span": hexadecimal(sid), "text": body,
         "place": [place, pos]}
        for time, severity, event, sid, body, place, pos in rows
    ]  # fmt: skip


def _tree(nodes: list[Node]) -> tuple[list[Node], list[tuple[Node, int]]]:
    """Hang each span under its parent; the rest are roots. Of two spans with one id, the first has the children.

    Returns the roots, and all spans in order with their depth.
    """
    by_id: dict[int, Node] = {}
    for node in nodes:
        by_id.setdefault(node.sid, node)
    roots = []
    for node in nodes:
        parent = by_id.get(node.parent) if node.parent else None
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.children.append(node)
    order = _in_order(roots)
    if len(order) < len(nodes):
        reached = {node.index for node, _ in order}
        for node in nodes:
            if node.index not in reached:  # in a cycle that nothing leads into
                roots.append(node)
                reached.update(found.index for found, _ in _in_order([node]))
        order = _in_order(roots)
    return roots, order


def _in_order(roots: list[Node]) -> list[tuple[Node, int]]:
    """Depth first, each once, with how deep it is."""
    found, seen = [], set()
    ahead = [(node, 0) for node in reversed(roots)]
    while ahead:
        node, depth = ahead.pop()
        if node.index in seen:
            continue
        seen.add(node.index)
        found.append((node, depth))
        ahead += [(child, depth + 1) for child in reversed(node.children)]
    return found


def span(reading: Reading, question: Question) -> dict[str, Any]:
    """One span in full, from its batch."""
    body = reading.body(question.number("place", 0))
    position = question.number("pos", 0)
    found = None if body is None else spans_at(body, [position]).get(position)
    if found is None:
        return {"gone": True}
    return {
        "status": found.status, "attributes": _said(found.attributes), "scope": found.scope,
        "resource": _said(found.resource),
        "events": [{"name": name, "attributes": _said(attributes)} for name, attributes in found.events],
    }  # fmt: skip


def _said(value: Any) -> Any:
    """An attribute's value as the page can show it: JavaScript's numbers have not all ids, and JSON's no NaN."""
    if isinstance(value, dict):
        return {key: _said(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_said(one) for one in value]
    if isinstance(value, int) and abs(value) > EXACT:
        return str(value)
    return value if not isinstance(value, float) or isfinite(value) else str(value)


def line(reading: Reading, question: Question) -> dict[str, Any]:
    """One log record in full, from its batch."""
    body = reading.body(question.number("place", 0))
    found = None if body is None else log_at(body, question.number("pos", 0))
    if found is None:
        return {"gone": True}
    return {
        "text": found.body, "attributes": _said(found.attributes), "scope": found.scope,
        "resource": _said(found.resource),
        "severity": found.severity_text, "trace": found.trace_id, "span": found.span_id,
    }  # fmt: skip
