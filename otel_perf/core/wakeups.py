"""A signal that comes as the main thread begins to wait in C is not left until it is back.

CPython's handler in C notes a signal, and the main thread calls Python's when it is back in the interpreter. A signal
that comes after its last look and before the system call does not interrupt that, and may stand for ever. Where a
process has no handler the kernel ends it, whatever it waits for; with ours, ``Pool.terminate``, which sends SIGTERM
once as its workers begin to wait for work, would wait for ever. So processes of ``multiprocessing`` have a thread that
is told of each signal (``signal.set_wakeup_fd``) and interrupts the main thread until that has looked.

It is interrupted by another signal, SIGURG, which nobody takes for a wish to end, and which is handled after the one
that is waited for: CPython calls handlers in the order of the numbers. No signal is handled twice.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from functools import wraps
from time import sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_perf.core.patches import on_import, put
from otel_perf.core.threads import get_ident, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from types import FrameType

REST: Final = 0.05  # seconds that the main thread has to look by itself; twice as long after each interruption
MOST: Final = 1.0  # seconds between interruptions of a main thread that computes in C
HIGH: Final = 200  # descriptors from here on: an app that closes all of them, as daemons do, opens lower ones


class _Pipe(NamedTuple):
    """Of the thread that watches this process. Closed only while it is what it was."""

    reader: int
    writer: int
    identity: tuple[int, int]

    def close(self, end: int) -> None:
        with suppress(OSError):
            if _identity(end) == self.identity:
                os.close(end)


_pipe: _Pipe | None = None
_looked = False
_forked = False  # so that a descriptor that is found is the parent's


def install(ours: Callable[[], Iterable[int]], undo: ExitStack) -> None:
    """Watch processes of ``multiprocessing``: one thread in each, which costs nothing until a signal comes.

    ``ours`` tells which signals have a handler of ours; the others are as late as they would be without us.
    """
    if not hasattr(signal, "pthread_kill") or not hasattr(signal, "SIGURG"):
        return

    def process(module: Any) -> None:
        kind = module.BaseProcess
        put(kind, "_bootstrap", _run_process(vars(kind)["_bootstrap"], ours, undo), undo)

    def trio(module: Any) -> None:
        kind, name = module.WakeupSocketpair, "wakeup_on_signals"
        put(kind, name, _end_before(vars(kind)[name]), undo)

    on_import("multiprocessing.process", process, undo)
    # Trio warns of a descriptor that it finds. asyncio and uvloop take its place; their loops wake by their own.
    on_import("trio._core._wakeup_socketpair", trio, undo)


def forget() -> None:
    """In a forked child: the descriptor is its parent's, whose thread would take the child's signals for its own."""
    global _forked
    _forked = True
    pipe = _give_back()
    if pipe is not None:
        pipe.close(pipe.reader)


def _end() -> None:
    if threading.current_thread() is threading.main_thread():
        _give_back()  # its thread ends with the writer


def _give_back() -> _Pipe | None:
    global _pipe
    pipe, _pipe = _pipe, None
    if pipe is None:
        return None
    current = signal.set_wakeup_fd(-1)
    if current == pipe.writer:
        pipe.close(pipe.writer)
    elif current != -1:
        signal.set_wakeup_fd(current)  # uvloop's, say, which puts ours back at its end: it stays open
    if signal.getsignal(signal.SIGURG) is _look:
        signal.signal(signal.SIGURG, signal.SIG_DFL)
    return pipe


def _end_before(original: Any) -> Any:
    @wraps(original)
    def wakeup_on_signals(*args: Any, **kwargs: Any) -> Any:
        _end()
        return original(*args, **kwargs)

    return wakeup_on_signals


def _run_process(original: Any, ours: Callable[[], Iterable[int]], undo: ExitStack) -> Any:
    @wraps(original)
    def bootstrap(self: Any, *args: Any, **kwargs: Any) -> Any:
        with suppress(Exception):  # no descriptors left: signals come as they would without us
            _watch(ours)
            undo.callback(_end)
        return original(self, *args, **kwargs)

    return bootstrap


def _watch(ours: Callable[[], Iterable[int]]) -> None:
    global _pipe
    if _pipe is not None or signal.getsignal(signal.SIGURG) is not signal.SIG_DFL:
        return
    current = signal.set_wakeup_fd(-1)
    if current != -1 and not _forked:
        signal.set_wakeup_fd(current)
        return
    pipe = _make()
    try:
        start_new_thread(_interrupt, (pipe, get_ident(), ours))
    except BaseException:
        pipe.close(pipe.reader)
        pipe.close(pipe.writer)
        raise
    _pipe = pipe
    signal.signal(signal.SIGURG, _look)
    signal.set_wakeup_fd(pipe.writer, warn_on_full_buffer=False)


def _make() -> _Pipe:
    import fcntl  # not on Windows

    ends = os.pipe()
    try:
        reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, HIGH) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    os.set_blocking(writer, False)
    return _Pipe(reader, writer, _identity(reader))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _look(_number: int, _frame: FrameType | None) -> None:
    global _looked
    _looked = True


def _interrupt(pipe: _Pipe, main: int, ours: Callable[[], Iterable[int]]) -> None:
    global _looked
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # what the main thread holds back is held back
    with suppress(OSError):  # the app has closed it, or the thread is no more
        while numbers := os.read(pipe.reader, 64):
            if not set(numbers).intersection(ours()):
                continue
            _looked, rest = False, REST
            sleep(rest)
            while not _looked and signal.getsignal(signal.SIGURG) is _look:
                signal.pthread_kill(main, signal.SIGURG)
                sleep(rest)
                rest = min(2 * rest, MOST)
    pipe.close(pipe.reader)
    if _pipe is pipe:
        _plug(pipe.writer)


def _plug(writer: int) -> None:
    """The app has closed all descriptors, and CPython goes on to write to this one: nothing is to come of it."""
    import fcntl

    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        found = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, writer)
        os.close(null)
        if found != writer:
            os.close(found)
