"""A thread that looks at what is late, while something is open, and sleeps otherwise.

Every 20 ms it sends each busy event loop a heartbeat, looks at the stacks of the spans that have been open for too
long, and reads the memory in use. By how much it overslept tells whether this process gets to run at all. It takes
about 2 % of a CPU: when there is much to look at, it looks less often.
"""

from __future__ import annotations

import contextvars
import gc
import os
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.place import DEPTH
from otel_perf.bottlenecks.recorder import CLIENT
from otel_perf.bottlenecks.root import ENDLESS, Root
from otel_perf.bottlenecks.run_queue import account
from otel_perf.bottlenecks.stacks import RUNNING, Sample, Stack, of_task, of_thread
from otel_perf.core.own_file import OwnFile
from otel_perf.core.owner import APP, owner
from otel_perf.core.records import entity, record
from otel_perf.core.threads import allocate_lock, get_ident, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.bottlenecks.processor import BottleneckProcessor
    from otel_perf.bottlenecks.recorder import Open
    from otel_perf.bottlenecks.work import Workshop
    from otel_perf.core.guard import Guard

PERIOD: Final = 0.02  # seconds between looks
DUTY: Final = 50  # it sleeps at least so many times as long as it looked
LONGEST: Final = 0.1  # seconds between looks: what one took may have been a garbage collection
AWAKE: Final = 1.0  # seconds for which it goes on looking when nothing is open
LATE: Final = 0.015  # seconds after which a heartbeat is waited for, and the loop's stack looked at
OVERSLEPT: Final = 0.005  # seconds: CPython's switch interval
SAMPLES: Final = 2_000  # kept for one local root
HOGS: Final = 8  # threads that ran, whose stacks are looked at in one go
PLACES: Final = 64  # stacks looked at in one go
GROWN: Final = 16 * 2**20  # bytes from one look to the next, for which short spans are looked at, too
BLOCK: Final = 20_000_000  # ns without an answer, from which on a block is remembered
READINGS: Final = 3_000  # of memory and of the GIL that are kept: a minute
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@entity
class Heartbeat:
    """An event loop, and when it was last asked and last answered (ns)."""

    loop: Any
    thread: int
    sent: int = 0
    answered: int = 0
    stacks: list[Stack] = field(default_factory=list)
    culprit: tuple[int, int] | None = None  # ids of trace and span
    asked: bool = False

    def beat(self) -> None:
        """Called by the loop."""
        self.answered = time.time_ns()


@record
class Block:
    """An event loop did nothing else for some time (ns)."""

    loop: Any
    start: int
    end: int
    stacks: tuple[Stack, ...]
    culprit: tuple[int, int] | None  # ids of the trace and span in whose task it was, if they are known
    asked: bool  # requests were open meanwhile, or other work of the app's own


@record
class Look:
    """One look at the process: from when it was due until it was made (ns), which took a CPU and the interpreter."""

    start: int
    end: int
    queued: int  # ns of it in the run queue
    hogs: tuple[tuple[int, Stack], ...]  # threads that may have run meanwhile, and where they are now


class Watchdog:
    """Started by the first span, once in a process; safe across forks."""

    def __init__(
        self, processor: BottleneckProcessor, workshop: Workshop, slow: float, guard: Callable[[], Guard]
    ) -> None:
        self.blocks: deque[Block] = deque(maxlen=256)
        self.looks: deque[Look] = deque(maxlen=READINGS)
        self.resident: deque[tuple[int, int]] = deque(maxlen=READINGS)  # (ns, bytes)
        self._processor = processor
        self._workshop = workshop
        self._slow = int(slow * 1e9)
        self._guard = guard
        self._hearts: dict[int, Heartbeat] = {}
        self._positions: dict[int, tuple[int, int]] = {}
        self._turn = 0
        self._statm: OwnFile | None = None
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The thread is not there any more; the next span starts one."""
        self._asleep = True
        self._started = False
        self._ended = False
        self._bell = allocate_lock()
        self._bell.acquire()
        self._hearts.clear()
        self.blocks.clear()
        self.looks.clear()
        self.resident.clear()
        self._statm = None  # the parent's

    def begun(self, root: Root) -> None:
        """A local root was started: wake up."""
        loop = root.loop
        if loop is not None and id(loop) not in self._hearts:
            self._hearts[id(loop)] = Heartbeat(loop, get_ident())
        if self._asleep and not self._ended:
            self._asleep = False
            if not self._started:
                self._started = True
                try:
                    start_new_thread(self._run, (self._bell,))
                except RuntimeError:  # no more threads
                    self._started, self._asleep = False, True
            else:
                with suppress(RuntimeError):  # it was released already
                    self._bell.release()

    def end(self) -> None:
        """Stop looking, for good."""
        self._ended = True
        with suppress(RuntimeError):  # it was released already
            self._bell.release()

    def _run(self, bell: Any) -> None:
        idle, slept, waited = 0.0, PERIOD, account().waited
        while not self._ended and bell is self._bell:
            before = time.monotonic()
            time.sleep(slept)
            after, worked, queued = time.monotonic(), time.thread_time(), account().waited
            late, starved, waited = after - before - slept, max(0, queued - waited), queued
            try:
                idle = 0.0 if self.look(late, starved) else idle + after - before
            except Exception as error:
                self._guard().handle(error)
            if idle > AWAKE:
                idle = 0.0
                self._asleep = True
                if not self._processor.roots:
                    bell.acquire()
                self._asleep = False
            slept = min(max(PERIOD, DUTY * (time.thread_time() - worked)), LONGEST)
        self._statm = None

    def look(self, late: float = 0.0, starved: int = 0) -> bool:
        """Look once. ``late`` (s) is what the last sleep took too long, ``starved`` (ns) what of that was the kernel's.

        Whether anything is open.
        """
        # Stacks first, and copied: what comes after may give the interpreter to the threads that are looked at.
        now = time.time_ns()
        roots = [root for root in list(self._processor.roots.values()) if now - root.start < ENDLESS]
        slow = [root for root in roots if now - root.start >= self._slow]
        asked = any(heart.sent > heart.answered or heart.stacks for heart in self._hearts.values())
        stacks = frames.threads(DEPTH if slow or asked or late >= OVERSLEPT else 1)
        moved = self._moved(stacks)
        self.read_memory()
        if not roots and not asked:
            return False
        self._listen(now, roots, stacks)
        if slow:
            self._sample(now, slow, stacks)
        if late >= OVERSLEPT or slow:
            hogs = self._hogs(stacks, moved)
            self.looks.append(Look(now - max(0, int(late * 1e9)), now, starved, hogs))
        return True

    def read_memory(self) -> None:
        """Note the memory in use; 2 µs."""
        memory, now = self._memory(), time.time_ns()
        if memory:
            if self.resident and memory - self.resident[-1][1] >= GROWN:
                self._processor.noted = now
                roots = [
                    root
                    for root in list(self._processor.roots.values())
                    if root.kind is not CLIENT and now - root.start < ENDLESS
                ]
                for root in roots if len(roots) > 1 else ():
                    root.crowded = True
            self.resident.append((now, memory))

    # --- event loops -------------------------------------------------------------------------------

    def _listen(self, now: int, roots: list[Root], stacks: dict[int, frames.Stack]) -> None:
        busy = {id(root.loop) for root in roots if root.loop is not None}
        for key, heart in list(self._hearts.items()):
            if not heart.loop.is_running():  # it has stopped, perhaps at once after it was blocked
                if heart.stacks and heart.answered >= heart.sent:
                    self._record(heart)
                del self._hearts[key]
                continue
            if heart.sent > heart.answered:
                if now - heart.sent >= LATE * 1e9 and heart.thread in stacks and len(heart.stacks) < 100:
                    heart.stacks.append(of_thread(stacks[heart.thread], of_loop=True))
                    if heart.culprit is None:
                        heart.culprit = self._running(heart.loop)
                    heart.asked = heart.asked or any(
                        root.loop is heart.loop and root.kind is not CLIENT for root in roots
                    )
                continue
            if heart.stacks:
                self._record(heart)
            if key in busy:
                heart.sent = time.time_ns()
                try:
                    heart.loop.call_soon_threadsafe(heart.beat)
                except RuntimeError:  # closed
                    del self._hearts[key]

    def seen(self) -> list[Block]:
        """The latest blocks, those included that are over and wait for the next look; for any thread."""
        hearts = [heart for heart in list(self._hearts.values()) if heart.stacks and heart.answered >= heart.sent]
        found = [block for heart in hearts if (block := _block(heart)) is not None] + list(self.blocks)
        return list({(id(block.loop), block.start): block for block in found}.values())

    def _record(self, heart: Heartbeat) -> None:
        block = _block(heart)
        if block is not None:
            self.blocks.append(block)
        heart.stacks, heart.culprit, heart.asked = [], None, False

    def _running(self, loop: Any) -> tuple[int, int] | None:
        """The innermost span of the task that a loop is running."""
        running = getattr(sys.modules.get("asyncio.tasks"), "_current_tasks", {}).get(loop)
        if running is None:
            return None
        return _innermost(running, self._processor.open)

    # --- stacks ------------------------------------------------------------------------------------

    def _sample(self, now: int, slow: list[Root], stacks: dict[int, frames.Stack]) -> None:
        chosen = self._chosen({id(root) for root in slow})
        if len(chosen) > PLACES:
            self._turn = (self._turn + PLACES) % len(chosen)
            chosen = (chosen[self._turn :] + chosen[: self._turn])[:PLACES]
        for root, span, thread, task in chosen:
            copied = stacks.get(thread)
            stack = of_task(task) if task is not None else of_thread(copied) if copied else None
            if stack is None or (span._kind is CLIENT and stack.doing == RUNNING):
                continue
            if root.samples is None:
                root.samples = []
            if len(root.samples) < SAMPLES:
                root.samples.append(Sample(now, span._context.span_id, thread, stack))

    def _chosen(self, wanted: set[int]) -> list[Open]:
        """Each thread and task of the roots that are ``wanted``, with the innermost span that is open there."""
        places: dict[tuple[int, int], Open] = {}
        opened = self._processor.open
        for thread, work in list(self._workshop.running.items()):
            known = opened.get(work.span_id)
            if known is not None:
                places[thread, 0] = (work.root, known[1], thread, None)
        for known in list(opened.values()):  # in order of start: the innermost is last
            _, _, thread, task = known
            places[thread, 0 if task is None else id(task)] = known
        return [known for known in places.values() if id(known[0]) in wanted]

    def _hogs(self, stacks: dict[int, frames.Stack], moved: list[int]) -> tuple[tuple[int, Stack], ...]:
        """The threads that may have had the interpreter: those that moved in Python code of the app's.

        A short loop may be at the same instruction again: where none is seen to have moved, those that may have.
        """
        own = [thread for thread in self._positions if owner(stacks[thread][0][0].co_filename) == APP]
        ran = [thread for thread in own if thread in moved] or own or moved
        seen = [(thread, of_thread(stacks[thread])) for thread in ran[:HOGS]]
        return tuple(hog for hog in seen if hog[1].doing == RUNNING and hog[1].place is not None)

    def _moved(self, stacks: dict[int, frames.Stack]) -> list[int]:
        """The other threads that are elsewhere than the last time, and so had the interpreter meanwhile."""
        before, self._positions = self._positions, {}
        own = get_ident()
        for thread, stack in islice(stacks.items(), PLACES):
            if thread != own and stack:
                code, _, instruction = stack[0]
                self._positions[thread] = id(code), instruction
        return [thread for thread, position in self._positions.items() if before.get(thread, position) != position]

    def _memory(self) -> int:
        """Bytes of memory in use; 0 where that cannot be read cheaply."""
        try:
            file = self._statm
            if file is None:
                file = self._statm = OwnFile("/proc/self/statm")
            return int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            self._statm = None
            return 0


def _block(heart: Heartbeat) -> Block | None:
    # It was well when it answered last; the block began somewhere between then and the next heartbeat.
    start, end = heart.sent - int(PERIOD * 1e9 / 2), heart.answered
    if end - start < BLOCK:
        return None
    return Block(heart.loop, start, end, tuple(heart.stacks), heart.culprit, heart.asked)


def _innermost(task: Any, opened: dict[int, Open]) -> tuple[int, int] | None:
    """The innermost open span of ``task``: of those started in it, else the one it inherited in its context."""
    found: Open | None = None
    for known in list(opened.values()):
        if known[3] is task:
            found = known
    if found is None:
        found = _inherited(task, opened)
    return None if found is None else (found[0].trace_id, found[1]._context.span_id)


def _inherited(task: Any, opened: dict[int, Open]) -> Open | None:
    for context in gc.get_referents(task):  # Python 3.11 has no other way to a task's context
        if type(context) is contextvars.Context:
            for variable, value in context.items():
                if variable.name == "current_context" and isinstance(value, dict):
                    span: Any = trace.get_current_span(value)  # type: ignore[arg-type]
                    enclosing = getattr(span, "enclosing", None)
                    span = span if enclosing is None else enclosing()
                    return opened.get(span.get_span_context().span_id)
    return None
