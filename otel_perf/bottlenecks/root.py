"""What is kept of a local root while it is open.

A local root is a span whose parent is in another process, or is not open here. Its spans are kept as they ended; what
is slow enough to be looked at becomes a tree then, in another thread. All times are in ns since the epoch.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from otel_perf.bottlenecks.conventions import raw
from otel_perf.bottlenecks.recorder import RootBase
from otel_perf.bottlenecks.run_queue import UNKNOWN, Account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_perf.bottlenecks.place import Place

ENDLESS: Final = 60_000_000_000  # ns: what is open for longer is no request, and no suspect
KINDS: Final = 64  # by parent, name and statement


class Counted:
    """Spans that were one too many, alike."""

    __slots__ = ("busy", "count", "end", "span", "start")

    def __init__(self, span: Any) -> None:
        self.span = span
        self.start = span.start_time
        self.end = span.end_time
        self.count = 0
        self.busy = 0  # their time together (ns)


class Root(RootBase):
    """A local root, and what is collected for it. What few need is a default of the class, which costs nothing."""

    counted: dict[tuple[int, str, str], Counted] | None = None
    cpu: int = -1  # of the thread, between start and end (ns); -1 where it says nothing
    process: int = 0  # CPU time of the whole process between start and end (ns)
    queue: Account = UNKNOWN  # the thread's between start and end
    crowded: bool = False  # others were open when memory grew
    regressed: Any = None

    def hold(self, span: ReadableSpan) -> None:
        """Keep a span that has ended back."""
        self.holding(deque).append((monotonic(), span))

    def unhold(self, before: float) -> Iterator[ReadableSpan]:
        """Give each span that was held before that moment, once, whoever asks."""
        held = self.held
        while held:
            try:
                if held[0][0] > before:
                    return
                _, span = held.popleft()
            except IndexError:  # another thread had it
                return
            yield span

    def close(self) -> None:
        """Nobody will look at it any more: let go of all but its name, which children that never end hold on to."""
        self.ended = []
        self.samples = self.works = self.sites = self.seen = None

    def count(self, span: Any) -> None:
        """Count a span that has ended and is one too many, with those that are alike."""
        counted = self.counted
        if counted is None:
            counted = self.counted = {}
        parent = span.parent
        key = (0 if parent is None else parent.span_id, span.name, raw(span))
        known = counted.get(key)
        if known is None:
            if len(counted) >= KINDS:
                return
            known = counted[key] = Counted(span)
        known.count += 1
        known.busy += max(0, span.end_time - span.start_time)
        known.start = min(known.start, span.start_time)
        known.end = max(known.end, span.end_time)

    def place(self, span_id: int, site: Place | None) -> None:
        """Remember from which line a call was made."""
        if site is not None:
            if self.sites is None:
                self.sites = {}
            self.sites[span_id] = site


class Work:
    """What was handed to a pool: when it was submitted, began and ended, and its thread's CPU time."""

    __slots__ = ("cpu", "ended", "full", "pool", "process", "queue", "root", "site", "span_id", "started", "submitted",
                 "submitter", "thread")  # fmt: skip

    def __init__(self, root: Root, span_id: int, pool: str, submitted: int, submitter: int) -> None:
        self.root = root
        self.span_id = span_id  # of the span that handed it over
        self.pool = pool
        self.submitted = submitted
        self.submitter = submitter  # thread
        self.full = False  # no thread was free
        self.started = 0
        self.ended = 0
        self.thread = 0
        self.cpu = 0
        self.process = 0  # as of a root
        self.queue = UNKNOWN
        self.site: Place | None = None
