"""What is kept of a span while its local root is open: the nodes of the tree that the detectors look at.

A local root is a span whose parent is in another process, or is not open here. All times are in ns since the epoch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.conventions import raw

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_perf.bottlenecks.place import Place

CHILDREN: Final = 512  # records kept of one parent; more are only counted, by name
NAMES: Final = 64  # kinds by which they are counted
CLIENT: Final = SpanKind.CLIENT
WAITING: Final = frozenset({SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER})  # their time is somebody else's


class Record:
    """One span, or a piece of work that a span handed to a thread.

    What few records need is a default of the class: half of the price of a span is making this object.
    """

    parent: Record | None = None
    end: int = 0
    task: Any = None  # where an event loop runs: the task in which it was started; True once it has ended
    children: list[Record] | None = None
    more: dict[tuple[str, str], Record] | None = None  # those that were one too many, by name and statement
    count: int = 1  # spans that this stands for,
    busy: int = 0  # and their time together, if they are several (ns)
    site: Place | None = None
    span: ReadableSpan | None = None
    work: Work | None = None

    def __init__(self, root: Root, kind: SpanKind, start: int, thread: int) -> None:
        self.root = root
        self.kind = kind
        self.start = start
        self.thread = thread

    @property
    def name(self) -> str:
        """Of the span, once it has ended."""
        return "" if self.span is None else self.span.name

    def count_only(self, child: Record) -> None:
        """Count ``child``, which has ended and is one too many, with those that are alike."""
        more = self.more
        if more is None:
            more = self.more = {}
        key = (child.name, "" if child.span is None else raw(child.span))
        known = more.get(key)
        if known is None:
            if len(more) < NAMES:
                more[key] = child
            return
        if known.count == 1:
            known.busy = known.duration
        known.count += 1
        known.busy += child.duration
        known.start = min(known.start, child.start)
        known.end = max(known.end, child.end)

    @property
    def duration(self) -> int:
        """In ns; 0 for one that ended before it started."""
        return max(0, self.end - self.start)


class Work:
    """What was handed to a pool: when it was submitted, began and ended, and its thread's CPU time."""

    __slots__ = ("cpu", "ended", "full", "pool", "queued", "record", "site", "started", "submitted", "submitter",
                 "thread", "waiting")  # fmt: skip

    def __init__(self, record: Record, pool: str, submitted: int) -> None:
        self.record = record
        self.pool = pool
        self.submitted = submitted
        self.submitter = 0  # thread
        self.full = False  # no thread was free
        self.started = 0
        self.ended = 0
        self.thread = 0
        self.cpu = 0
        self.queued = -1  # as of a root
        self.waiting = -1
        self.site: Place | None = None


class Root:
    """A local root, and what is collected for it."""

    top: Record
    open: bool = True
    seen: dict[str, int] | None = None  # client spans started so far, by name
    held: deque[Record] | None = None  # ended, and not yet handed on
    works: list[Work] | None = None
    samples: list[Any] | None = None
    started_cpu: int = -1  # thread's CPU time at the start (ns); -1 where it says nothing
    cpu: int = -1  # used between start and end
    queued: int = -1  # time in the run queue when somebody first looked (ns)
    waiting: int = -1  # time in the run queue since then
    crowded: bool = False  # other slow ones were open at the same time
    regressed: Any = None

    def __init__(self, trace_id: int, loop: Any) -> None:
        self.trace_id = trace_id
        self.loop = loop

    def hold(self, record: Record) -> None:
        """Keep a span that has ended back."""
        held = self.held
        if held is None:
            held = self.held = deque()
        held.append(record)
