"""The tree of one local root, made from its spans when it is looked at. All times are in ns since the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.recorder import CLIENT

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.root import Root, Work

NOT_OWN: Final = frozenset({SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER})  # their time is somebody else's


class Record:
    """One span, or a piece of work that a span handed to a thread, or several spans that are alike."""

    __slots__ = ("busy", "children", "count", "end", "kind", "parent", "site", "span", "start", "task",
                 "thread", "work")  # fmt: skip

    def __init__(self, kind: SpanKind, start: int, end: int, thread: int, span: ReadableSpan | None = None) -> None:
        self.kind = kind
        self.start = start
        self.end = end
        self.thread = thread
        self.span = span
        self.parent: Record | None = None
        self.children: list[Record] = []
        self.task = 0  # id() of the one that it was started in; 0 where no event loop ran
        self.count = 1  # spans that this stands for,
        self.busy = 0  # and their time together, if they are several
        self.site: Place | None = None
        self.work: Work | None = None

    @property
    def name(self) -> str:
        """Of the span."""
        return "" if self.span is None else self.span.name

    @property
    def duration(self) -> int:
        """In ns; 0 for one that ended before it started."""
        return max(0, self.end - self.start)

    def adopt(self, child: Record) -> None:
        """Put ``child`` below."""
        child.parent = self
        self.children.append(child)


def _record(span: ReadableSpan, thread: int) -> Record:
    start = span.start_time or 0
    return Record(span.kind, start, span.end_time or start, thread, span)


def tree(root: Root) -> dict[int, Record]:
    """The records of a local root that has ended, by span id, linked; a child whose parent is not known is the root's.

    What was only counted is one record for all that are alike.
    """
    records: dict[int, Record] = {}
    sites = root.sites or {}
    for span, thread, task in root.ended:
        context = span.context
        if context is not None:
            record = records[context.span_id] = _record(span, thread)
            record.task = task
            record.site = sites.get(context.span_id)
    top = records[root.span_id]
    for span_id, record in records.items():
        parent = record.span.parent if record.span is not None else None
        if span_id != root.span_id:
            above = top if parent is None else records.get(parent.span_id, top)
            (top if above is record else above).adopt(record)
    for (parent_id, _, _), counted in (root.counted or {}).items():
        record = _record(counted.span, top.thread)
        record.start, record.end = counted.start, counted.end
        record.count, record.busy = counted.count, counted.busy
        record.task = top.task
        records.get(parent_id, top).adopt(record)
    return records


def nest_calls(record: Record) -> None:
    """Put a client span that ran within another one of its thread below it.

    SQLAlchemy's instrumentor does not make its span the current one, so that its driver's is not a child of it.
    """
    outer: dict[tuple[int, int], Record] = {}  # by thread and task
    kept = []
    for child in sorted(record.children, key=lambda child: (child.start, -child.end)):
        if child.kind is CLIENT and child.count == 1:
            place = child.thread, child.task
            around = outer.get(place)
            if around is not None and child.end <= around.end:
                around.adopt(child)
                continue
            outer[place] = child
        kept.append(child)
    record.children = kept
