"""What nearly every span costs, between the SDK and the exporters; ``_recorder.c`` is the compiled twin.

A span's start is an entry in a dictionary, its end is the entry's removal, a duration counted for local roots and
calls, and a tuple in its root's list. Everything else (what is slow, new or one too many) is the processor's to decide;
here in Python, local roots are, too.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks import loops
from otel_perf.bottlenecks.baseline import WINDOW
from otel_perf.bottlenecks.conventions import LONGEST_KEY, RAW, raw
from otel_perf.bottlenecks.run_queue import recent_clocks

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_perf.bottlenecks.baseline import Durations
    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.root import Work
    from otel_perf.bottlenecks.run_queue import Clocks

CLIENT: Final = SpanKind.CLIENT
OPEN: Final = 10_000  # spans that may be open; more are handed on without being recorded
SPANS: Final = 4_096  # kept of one local root; more are only counted
CHUNK: Final = 64  # of those that are counted at once
HOLD: Final = 50_000_000  # ns: shorter local roots are not looked at, shorter spans not held back
SITE_AFTER: Final = 5_000_000  # ns since the root's start, before which no line is looked up for repeated calls
SITE_LONG: Final = 30_000_000  # ns: a client span from which on its line is looked up when it ends
# ns: a span with an older start was made after the fact, and its CPU time is not known. A thread that loses its CPU,
# or the garbage collector, may come between the two, in just those requests that are slow for it.
NEW: Final = 10_000_000
TRACE_ID, SPAN_ID, IS_REMOTE = range(3)  # a SpanContext is a tuple

# A span that is open: its local root, itself, the thread and, where an event loop runs, the task it was started in.
# Plain tuples, here and below: an object with named fields would be a third of the price of a span.
Open: TypeAlias = "tuple[Any, Any, int, Any]"
# A span that has ended: itself, its thread, and id() of its task, 0 where no event loop ran.
Ended: TypeAlias = "tuple[ReadableSpan, int, int]"


class _RootBase:
    """What is known of a local root from its start, and its spans that have ended."""

    open: bool = True
    done: bool = False  # what is held from now on is handed on by whoever holds it
    chunks: list[None] | None = None  # of spans that are kept
    clocks: Clocks | None = None  # the thread's at the start, where they say something
    held: deque[tuple[float, ReadableSpan]] | None = None  # ended, since when by the monotonic clock, not yet handed on
    seen: dict[str, int] | None = None  # client spans started so far, by name
    sites: dict[int, Place] | None = None  # lines of calls, by span id
    works: list[Work] | None = None
    samples: list[Any] | None = None

    def __init__(self, trace_id: int, span_id: int, kind: SpanKind, start: int, thread: int, loop: Any) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.kind = kind
        self.start = start  # ns
        self.thread = thread
        self.loop = loop
        self.ended: list[Ended] = []

    def holding(self, make: type[deque[Any]]) -> deque[Any]:
        """What is held back; made in one step if there is none yet: two threads may hold their first ones together."""
        found: deque[Any] = vars(self).setdefault("held", make())
        return found


class _Recorder:
    """Thread-safe without a lock: what threads share changes by single steps of dictionaries and lists."""

    def __init__(
        self,
        _root: type[_RootBase],
        _operations: dict[str, Durations],
        clients: dict[tuple[str, str], Durations],
        most_kept: int,
    ) -> None:
        self.on = False
        self.share = 1.0
        self.open: dict[int, Open] = {}  # by span id
        self.roots: dict[int, Any] = {}  # by id()
        self.begun: Callable[[Any], None] | None = None
        self.noted = 0  # when something happened last for which spans are looked at that are short (ns)
        self.most_kept = most_kept
        self._sinks: tuple[Any, ...] = ()
        self._starting: tuple[Any, ...] = ()
        self._clients = clients
        self._chunks: list[None] = []

    @property
    def kept(self) -> int:
        """Ended spans that are kept, by whole chunks; compiled, one by one."""
        return len(self._chunks) * CHUNK

    @kept.setter
    def kept(self, _none: int) -> None:
        self._chunks = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Record that ``span`` is open."""
        self._started(span, parent_context)

    def _started(self, span: Any, parent_context: Any) -> None:
        raise NotImplementedError

    def on_end(self, span: Any) -> None:
        """Hand ``span`` on, or hold it back until its local root has ended."""
        try:
            if self._ended(span):
                return
        except Exception as error:
            self._failed(error)
        for sink in self._sinks:
            sink.on_end(span)

    def _ended(self, span: Any) -> bool:
        """Whether the span is held back."""
        span_id = span._context[SPAN_ID]
        known = self.open.pop(span_id, None)
        if known is None:
            return False
        root, _, thread, task = known
        start = span._start_time
        duration = span._end_time - start
        place = 0 if task is None else id(task)
        if root.span_id == span_id:
            return self._ended_root(root, span, duration, place)
        if span._kind is CLIENT:
            counted = self._clients.get((span._name, raw(span)))
            if counted is None or len(counted.recent) >= WINDOW - 1:
                self._called(span, duration)
            else:
                counted.recent.append(duration)
            if duration >= SITE_LONG:
                self._located(root, span_id, thread)
        spans = root.ended
        size = len(spans)
        if not root.open:
            return False  # it outlived its root
        if size < SPANS and (size % CHUNK or self._may_keep(root)):
            spans.append((span, thread, place))
            if duration >= HOLD or self.noted > start:
                self._held(root, span)
                return True
        else:
            root.count(span)
        return False

    def _failed(self, error: Exception) -> None:
        raise NotImplementedError

    def _ended_root(self, root: Any, span: Any, duration: int, task: int) -> bool:
        raise NotImplementedError

    def _called(self, span: Any, duration: int) -> None:
        raise NotImplementedError

    def _located(self, root: Any, span_id: int, thread: int) -> None:
        raise NotImplementedError

    def _held(self, root: Any, span: Any) -> None:
        raise NotImplementedError

    def _may_keep(self, root: Any) -> bool:
        """Whether there is room for another :data:`CHUNK` of spans in the process; ``root`` has it then."""
        if self.kept >= self.most_kept:
            return False
        self._chunks.append(None)
        root.chunks = vars(root).setdefault("chunks", [])
        root.chunks.append(None)
        if root.done:  # meanwhile
            self.make_room(root)
        return True

    def make_room(self, root: Any) -> None:
        """The spans of ``root`` are not kept any more."""
        # What a root has is taken from it step by step, so that no other thread, nor a signal handler, takes it again.
        chunks = root.chunks
        with suppress(IndexError):
            while chunks:
                chunks.pop()
                self._chunks.pop()


_compiled: Any = None
with suppress(ImportError):
    _compiled = import_module("otel_perf.bottlenecks._recorder")
    _compiled.configure(
        loops=vars(loops), client=CLIENT, texts=RAW, most_open=OPEN, most_spans=SPANS, longest_key=LONGEST_KEY,
        window=WINDOW, hold=HOLD, site_after=SITE_AFTER, site_long=SITE_LONG, oldest=NEW, recent_clocks=recent_clocks,
    )  # fmt: skip
if TYPE_CHECKING or _compiled is None:
    RootBase = _RootBase
    Recorder = _Recorder
else:
    RootBase = _compiled.RootBase
    Recorder = _compiled.Recorder
