"""Calls us before the process ends, by whatever door it leaves, and changes nothing else about it.

``atexit`` covers return, exceptions, ``sys.exit`` and SIGINT. It does not cover a signal with the default
disposition, ``os._exit`` (multiprocessing, celery) and ``os.exec*``; those are covered here. The exit
status stays what it was: after the flush a signal is raised again with its default disposition.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import wakeups
from otel_perf.core.forks import hold_back, is_new_child, on_fork
from otel_perf.core.patches import on_import, put
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from types import FrameType, TracebackType

BUDGET: Final = 2.0  # seconds that a signal or os.exec* waits at most; usually it takes a few milliseconds
# os._exit is the normal end of a child of multiprocessing or celery, which waits as long for a slow disk.
NORMAL: Final = 5.0
SIGNALS: Final = ("SIGTERM", "SIGHUP")
# Modules of gunicorn's worker that sets every signal to its default; uvicorn, which it runs, then ends by one.
RESETTING: Final = ("uvicorn.workers", "uvicorn_worker._workers")
leaving: list[Callable[[], object]] = []
"""Called, within the budget, before ``os._exit``: the program ends as it wants to, and not by a signal."""
MARK: Final = "__otel_perf__"  # attribute of our excepthooks


def bounded(work: Callable[[], object], budget: float) -> bool:
    """Run ``work`` in a thread of its own and wait at most ``budget`` seconds; ``True`` if it ended.

    A signal handler interrupts the main thread anywhere, perhaps while it holds a lock that ``work``
    needs; waiting for another thread with a bound cannot deadlock. Only primitives that are safe to
    re-enter are used: ``threading.Thread`` and ``Event`` take locks that the interrupted code may hold.
    """
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            work()
        finally:
            done.release()

    try:
        start_new_thread(run, ())
    except RuntimeError:  # the interpreter is too far into its end to start threads
        run()
    return bool(done.acquire(timeout=budget))


def install(flush: Callable[[float], object], shutdown: Callable[[], object], undo: ExitStack) -> None:
    """Call ``shutdown`` at a normal exit and ``flush`` with the seconds it may take before a sudden one."""
    interrupted = _watch_interrupt(undo)
    process = [os.getpid()]
    undo.callback(on_fork(child=lambda: process.__setitem__(0, os.getpid())))

    def at_exit() -> None:
        if process[0] != os.getpid():  # forked without telling Python (uWSGI): what threads hold is held for ever
            return
        status = interrupted()  # before the shutdown takes our hooks away
        shutdown()
        if status:
            _keep_interrupt_status()

    atexit.register(at_exit)
    undo.callback(atexit.unregister, at_exit)
    _watch_signals(flush, undo)
    _watch_os(flush, undo)


def ours(hook: Callable[..., Any]) -> bool:
    """Whether an excepthook is one of ours, so that it has seen what the interpreter handed over."""
    return bool(getattr(hook, MARK, False))


def _watch_interrupt(undo: ExitStack) -> Callable[[], bool]:
    """Tells whether the main thread ended by an uncaught ``KeyboardInterrupt``."""
    before, seen = sys.excepthook, []

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            seen.append(True)
        before(kind, error, trace)

    def restore() -> None:
        if sys.excepthook is excepthook:
            sys.excepthook = before

    def interrupted() -> bool:
        # last_type is set for errors as well that a console handled; it counts only where the app's own hook
        # took the place of ours.
        return bool(seen) or (not ours(sys.excepthook) and getattr(sys, "last_type", None) is KeyboardInterrupt)

    setattr(excepthook, MARK, True)
    sys.excepthook = excepthook
    undo.callback(restore)
    return interrupted


def _keep_interrupt_status() -> None:
    """Let the interpreter still die of SIGINT after an uncaught ``KeyboardInterrupt``.

    CPython remembers the interrupt in a flag that every run of source text clears (``run_eval_code_obj``),
    be it in the import of a dataclass by our exporter; only running source that is interrupted sets it again.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102


def _watch_signals(flush: Callable[[float], object], undo: ExitStack) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # Python sets handlers in the main thread only

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not is_new_child():
            bounded(lambda: flush(BUDGET), BUDGET)
        if signal.getsignal(number) is not on_signal:
            return  # the app's own handler, which called the one it found: it decides what comes next
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Still here: as process 1 of a container, the kernel ignores a signal with the default
        # disposition. Then the app goes on, as it would without us, and we keep watching.
        signal.signal(number, on_signal)

    def restore(number: int) -> None:
        if signal.getsignal(number) is on_signal and threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_DFL)

    def watch() -> None:
        for number in _handled_by(signal.SIG_DFL):
            try:
                signal.signal(number, on_signal)
            except ValueError:  # a sub-interpreter
                return
            undo.callback(restore, number)

    watch()
    _watch_again(watch, undo)
    undo.callback(hold_back(lambda: _handled_by(on_signal)))
    wakeups.install(lambda: _handled_by(on_signal), undo)


def _handled_by(handler: object) -> list[int]:
    """Those of :data:`SIGNALS` that have this handler, or disposition."""
    numbers = (getattr(signal, name) for name in SIGNALS if hasattr(signal, name))
    return [number for number in numbers if signal.getsignal(number) is handler]


def _watch_again(watch: Callable[[], None], undo: ExitStack) -> None:
    def imported(module: Any) -> None:
        original = module.UvicornWorker.init_signals

        def init_signals(self: Any) -> None:
            original(self)
            watch()

        put(module.UvicornWorker, "init_signals", init_signals, undo)

    for name in RESETTING:
        on_import(name, imported, undo)


def _watch_os(flush: Callable[[float], object], undo: ExitStack) -> None:
    for name in ("_exit", "execv", "execve"):
        original = getattr(os, name, None)
        if original is None:
            continue
        undo.callback(_restore, name, _flush_first(name, original, flush), original)


def _flush_first(name: str, original: Callable[..., Any], flush: Callable[[float], object]) -> Callable[..., Any]:
    from functools import wraps

    budget = NORMAL if name == "_exit" else BUDGET

    def leave() -> None:
        if name == "_exit":
            for call in tuple(leaving):
                call()
        flush(budget)

    @wraps(original)
    def flushed(*args: Any, **kwargs: Any) -> Any:
        bounded(leave, budget)
        return original(*args, **kwargs)

    setattr(os, name, flushed)
    return flushed


def _restore(name: str, ours: Callable[..., Any], original: Callable[..., Any]) -> None:
    if getattr(os, name) is ours:  # somebody who patched after us keeps calling through ours
        setattr(os, name, original)
