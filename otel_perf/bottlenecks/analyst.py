"""The thread that looks at finished local roots and hands their spans on, with what was found.

It begins when a root that may have findings ends first. A root waits for :data:`SETTLE`, since what the watchdog saw of
its end comes a moment later; one that the thread is too late for is handed on as it is.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace as trace_api

from otel_perf.bottlenecks.finding import KINDS, Finding, enriched
from otel_perf.core.events import BOTTLENECK
from otel_perf.core.threads import allocate_lock, get_ident, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.bottlenecks.detectors import Detector
    from otel_perf.bottlenecks.processor import BottleneckProcessor
    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.root import Root
    from otel_perf.bottlenecks.trace import Surroundings, Trace
    from otel_perf.core.census import Reading
    from otel_perf.core.feature import Host

SETTLE: Final = 0.05  # seconds
QUEUE: Final = 1_000  # roots that may wait
HELD: Final = 1.0  # seconds for which a span waits for its local root to end
LEAST: Final = 0.005  # seconds: a finding that would save less is none
CULPRITS: Final = 200  # counted by name; the others are "other"
DUTY: Final = 4  # it rests at least so many times as long as it looked, in CPU time
TICK: Final = 0.25  # seconds between looks at spans that are held, while any may be


class Analyst:
    """Thread-safe; safe across forks."""

    def __init__(
        self,
        host: Host,
        processor: BottleneckProcessor,
        baselines: Baselines,
        surroundings: Callable[[], Surroundings],
    ) -> None:
        self._host = host
        self._processor = processor
        self._baselines = baselines
        self._detectors: Sequence[Detector] | None = None
        self._surroundings = surroundings
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The thread is not there any more, and what was found is the parent's."""
        self.found: Counter[tuple[str, str]] = Counter()  # by kind and culprit
        self.costs: dict[tuple[str, str], float] = {}  # seconds that mending them would have saved
        self.unanalysed = 0  # roots that the thread was too late for
        self._thread = 0
        self._let_go_after = 0.0
        self._looking: Root | None = None
        self._owner = 0  # the other thread that looks, in a flush
        self._queue: deque[tuple[float, Root]] = deque()
        self._bell = allocate_lock()
        self._bell.acquire()
        self._working = allocate_lock()
        self._started = False
        self._ended = False

    def finished(self, root: Root) -> None:
        """A local root has ended that may have findings."""
        if len(self._queue) >= QUEUE or self._ended:
            self.unanalysed += 1
            self._processor.release(root)
            return
        self._queue.append((time.monotonic(), root))
        self.start()
        if not self._started or self._ended:
            self._drain()

    def start(self) -> None:
        """Something is queued or held: have the thread, if it is not there yet."""
        if not self._started and not self._ended:
            self._started = True
            try:
                start_new_thread(self._run, (self._bell,))
            except RuntimeError:  # no more threads, or the interpreter is going down
                self._started = False

    def flush(self, timeout: float) -> None:
        """Look at all that waits now, in this thread, and hand it on, and all that is held.

        What cannot be looked at within ``timeout`` seconds is handed on as it is.
        """
        deadline = time.monotonic() + timeout
        if get_ident() not in {self._thread, self._owner} and self._working.acquire(timeout=max(0.0, timeout)):
            self._owner = get_ident()
            try:
                while time.monotonic() < deadline and self._look_at_next():
                    pass
            finally:
                self._owner = 0
                self._working.release()
        self._drain()
        root = self._looking
        if root is not None:  # the thread is not done with it, and may never be
            self._processor.release(root)
        self._let_go(0.0)

    def _drain(self, age: float = 0.0) -> None:
        """Hand on, as they are, the roots that have waited for longer than ``age`` (s)."""
        before = time.monotonic() - age
        while self._queue:
            try:
                if self._queue[0][0] > before:
                    return
                root = self._queue.popleft()[1]
            except IndexError:  # another thread had it
                return
            self.unanalysed += 1
            self._processor.release(root)

    def end(self) -> None:
        """Stop for good, when everything was handed on."""
        self._ended = True
        self.flush(1.0)
        with suppress(RuntimeError):  # it was released already
            self._bell.release()

    def readings(self) -> Iterable[Reading]:
        """What was found so far, by kind and culprit."""
        return [(number, {"kind": kind, "culprit": culprit}) for (kind, culprit), number in self.found.copy().items()]

    def saved(self) -> Iterable[Reading]:
        """What mending it would have saved so far, by kind and culprit."""
        return [(cost, {"kind": kind, "culprit": culprit}) for (kind, culprit), cost in self.costs.copy().items()]

    def skipped(self) -> Iterable[Reading]:
        """Spans that were not recorded, and local roots that were not looked at."""
        return [(self._processor.skipped, {"reason": "open spans"}), (self.unanalysed, {"reason": "late"})]

    def _run(self, bell: Any) -> None:
        self._thread = get_ident()
        while not self._ended and bell is self._bell:
            bell.acquire(timeout=TICK)
            try:
                self._work()
            except Exception as error:
                self._host.guard("bottlenecks").handle(error)

    def _work(self) -> None:
        while self._queue and not self._ended:
            try:
                since, _ = self._queue[0]
            except IndexError:  # a flush had it
                break
            wait = since + SETTLE - time.monotonic()
            if wait < -HELD:  # too much to look at
                self._drain(HELD)
                continue
            time.sleep(max(0.0, wait))
            before = time.thread_time()
            with self._working:
                self._look_at_next()
            if time.monotonic() >= self._let_go_after:
                self._let_go(HELD)
            time.sleep(min(DUTY * (time.thread_time() - before), HELD))
        self._let_go(HELD)

    def _look_at_next(self) -> bool:
        try:
            self._looking = self._queue[0][
                1
            ]  # before it leaves the queue, so that a flush finds it in one or the other
            root = self._looking = self._queue.popleft()[1]
        except IndexError:
            self._looking = None
            return False
        findings: list[Finding] = []
        try:
            from otel_perf.bottlenecks.trace import Trace

            if not root.done:
                seen = Trace(root, self._baselines, self._surroundings())
                findings = self.analyse(seen)
                if findings:
                    self._hand_on(seen, findings)
        except Exception as error:
            self._host.guard("bottlenecks").handle(error)
        finally:
            self._processor.release(root)
            self._looking = None
        for finding in findings:
            self._tell(finding)
        return True

    def analyse(self, seen: Trace) -> list[Finding]:
        """The findings of a local root, the costliest first."""
        found = (finding for detector in self.detectors() for finding in detector.find(seen))
        return sorted(
            (finding for finding in found if finding.cost >= LEAST), key=lambda finding: finding.cost, reverse=True
        )

    def detectors(self) -> Sequence[Detector]:
        """They are imported when something is slow first: 10 ms that a quick program never pays."""
        if self._detectors is None:
            from otel_perf.bottlenecks.detectors import load_all

            self._detectors, problems = load_all(self._host.environ)
            for problem in problems:
                self._host.problem(f"otel-perf: {problem}")
        return self._detectors

    def _tell(self, finding: Finding) -> None:
        culprit = finding.culprit
        if len(self.found) >= CULPRITS and (finding.kind, culprit) not in self.found:
            culprit = "other"
        self.found[finding.kind, culprit] += 1
        self.costs[finding.kind, culprit] = self.costs.get((finding.kind, culprit), 0.0) + finding.cost
        context = None
        if finding.record.span is not None and finding.record.span.context is not None:
            context = trace_api.set_span_in_context(trace_api.NonRecordingSpan(finding.record.span.context))
        self._host.event(BOTTLENECK, finding.attributes(), body=finding.evidence, severity="WARN", context=context)

    # --- handing on --------------------------------------------------------------------------------

    def _hand_on(self, seen: Trace, findings: list[Finding]) -> None:
        root = seen.root
        by_span: dict[int, list[Finding]] = {}
        for finding in findings:
            by_span.setdefault(id(finding.record.span), []).append(finding)
        worst = findings[0]
        kinds = sorted({finding.kind for finding in findings})
        for span in root.unhold(inf):
            shown = by_span.get(id(span), [])
            attributes: dict[str, Any] = {}
            if shown:
                attributes[KINDS] = sorted({finding.kind for finding in shown})
                attributes["perf.self_time"] = _self_time(shown[0].record) / 1e9
            if span is seen.top.span:
                attributes |= {
                    "perf.self_time": _self_time(seen.top) / 1e9,
                    BOTTLENECK.name: True,
                    KINDS: kinds,
                    "perf.bottleneck.cost": round(worst.cost, 6),
                    "perf.bottleneck.top": worst.evidence,
                    "perf.gc_time": _paused(seen) / 1e9,
                }
                if root.cpu >= 0:
                    attributes["perf.cpu_time"] = root.cpu / 1e9
                if root.cpu >= 0 and root.queue.waited >= 0:  # else it is not yet a difference
                    attributes["perf.runqueue_time"] = root.queue.waited / 1e9
            self._processor.hand_on(self._enriched(span, attributes, shown) if attributes else span)

    def _enriched(self, span: ReadableSpan, attributes: dict[str, Any], shown: list[Finding]) -> ReadableSpan:
        try:
            return enriched(span, attributes, shown)
        except Exception as error:  # an SDK that is made differently: the span is worth more than what was found
            self._host.guard("bottlenecks").handle(error)
            return span

    def _let_go(self, age: float) -> None:
        """Hand on the spans that have waited for longer than ``age`` (s) for a root that is still open."""
        now = time.monotonic()
        before, self._let_go_after = now - age, now + TICK
        for root in list(self._processor.roots.values()):
            for span in root.unhold(before):
                self._processor.hand_on(span)


def _paused(seen: Trace) -> int:
    """How long the garbage collector ran meanwhile (ns)."""
    top = seen.top
    return sum(max(0, min(pause.end, top.end) - max(pause.start, top.start)) for pause in seen.around.pauses)


def _self_time(record: Record) -> int:
    """What no child covers (ns)."""
    covered, reached = 0, record.start
    for child in sorted(record.children, key=lambda child: child.start):
        start, end = max(child.start, reached), min(child.end, record.end)
        if start < end:
            covered += end - start
            reached = end
    return record.duration - covered
