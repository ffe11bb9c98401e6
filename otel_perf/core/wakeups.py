"""A signal that comes as the main thread begins to wait in C is not left until it is back.

CPython's handler in C notes a signal, and the main thread calls Python's when it is back in the interpreter. A signal
that comes after its last look and before the system call does not interrupt that, and may stand for ever. Where a
process has no handler the kernel ends it, whatever it waits for; with ours, ``Pool.terminate``, which sends SIGTERM
once as its workers begin to wait for work, would wait for ever. So processes of ``multiprocessing`` have a thread that
is told of each signal (``signal.set_wakeup_fd``) and sends to the main thread again what is not handled.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from functools import wraps
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import on_import, put
from otel_perf.core.threads import start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from types import FrameType

REST: Final = 0.05  # seconds that the main thread has to begin with a signal; it is sent again that often
_begun: set[int] = set()  # signals whose handler runs
_pipe: tuple[int, int] | None = None  # of the thread that watches this process


def noted(handler: Callable[[int, FrameType | None], None]) -> Callable[[int, FrameType | None], None]:
    """A handler whose signals :func:`install` can watch: it is known whether it has begun."""

    @wraps(handler)
    def on_signal(number: int, frame: FrameType | None) -> None:
        _begun.add(number)
        try:
            handler(number, frame)
        finally:
            _begun.discard(number)

    return on_signal


def install(ours: Callable[[], Iterable[int]], undo: ExitStack) -> None:
    """Watch processes of ``multiprocessing``: one thread in each, which costs nothing until a signal comes.

    ``ours`` tells the signals that have a handler made by :func:`noted`.
    """

    def process(module: Any) -> None:
        kind = module.BaseProcess
        put(kind, "_bootstrap", _run_process(vars(kind)["_bootstrap"], ours, undo), undo)

    if hasattr(signal, "pthread_kill"):
        on_import("multiprocessing.process", process, undo)


def forget() -> None:
    """In a forked child: the descriptor is its parent's, whose thread would take the child's signals for its own."""
    global _pipe
    if _pipe is None:
        return
    ends, _pipe = _pipe, None
    _stop_telling(ends[1])
    for end in ends:
        with suppress(OSError):
            os.close(end)


def _stop_telling(writer: int) -> None:
    other = signal.set_wakeup_fd(-1)
    if other not in (-1, writer):
        signal.set_wakeup_fd(other)


def _run_process(original: Any, ours: Callable[[], Iterable[int]], undo: ExitStack) -> Any:
    @wraps(original)
    def bootstrap(self: Any, *args: Any, **kwargs: Any) -> Any:
        with suppress(Exception):  # no descriptors left: signals come as they would without us
            _watch(ours, undo)
        return original(self, *args, **kwargs)

    return bootstrap


def _watch(ours: Callable[[], Iterable[int]], undo: ExitStack) -> None:
    global _pipe
    if _pipe is not None or "trio" in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    other = signal.set_wakeup_fd(-1)
    if other != -1:
        signal.set_wakeup_fd(other)
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        start_new_thread(_send_again, (reader, threading.get_ident(), ours))
    except RuntimeError:
        os.close(reader)
        os.close(writer)
        return
    _pipe = reader, writer
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    undo.callback(_end)
    # Trio warns of a descriptor that it finds. asyncio takes its place, and puts none back.
    on_import("trio", lambda _module: _end(), undo)


def _end() -> None:
    global _pipe
    if _pipe is None or threading.current_thread() is not threading.main_thread():
        return
    (_reader, writer), _pipe = _pipe, None
    _stop_telling(writer)
    os.close(writer)


def _send_again(reader: int, main: int, ours: Callable[[], Iterable[int]]) -> None:
    while numbers := set(os.read(reader, 64)):
        while numbers := numbers.intersection(ours()) - _begun:
            sleep(REST)
            for number in numbers.intersection(ours()) - _begun:
                signal.pthread_kill(main, number)
    os.close(reader)
