"""The hooks themselves."""

from __future__ import annotations

import asyncio.base_events
import atexit
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from opentelemetry.semconv.attributes import exception_attributes as semconv

from otel_perf.core import exits
from otel_perf.core.events import UNCAUGHT_ERROR
from otel_perf.core.origin import origin_of
from otel_perf.core.patches import on_import

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard

_IGNORED = (SystemExit, KeyboardInterrupt, GeneratorExit)


class Reporter:
    """Emits the events."""

    def __init__(self, host: Host, guard: Guard) -> None:
        self._host = host
        self._guard = guard

    def report(self, error: BaseException | None, where: str, message: str = "") -> None:
        """Emit ``perf.uncaught_error``. Never raises."""
        if error is None or isinstance(error, _IGNORED):
            return
        with self._guard:
            kind = type(error)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            text = _text(error)
            self._host.event(
                UNCAUGHT_ERROR,
                {
                    semconv.EXCEPTION_TYPE: name,
                    semconv.EXCEPTION_MESSAGE: text,
                    semconv.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(error)),
                    "perf.error.source": where,
                    "thread.name": threading.current_thread().name,
                },
                body=message or f"{name}: {text}",
                severity="ERROR",
                context=origin_of(error),
            )


def install(host: Host, guard: Guard, undo: ExitStack) -> None:
    """Put the hooks in place."""
    reporter = Reporter(host, guard)
    _hook_main(reporter, undo)
    _hook_threads(reporter, undo)
    _hook_unraisable(reporter, undo)
    _hook_loop(asyncio.base_events.BaseEventLoop, reporter, undo)
    on_import("uvloop", lambda module: _hook_loop(module.Loop, reporter, undo), undo, guard)


def _put(owner: Any, name: str, hook: Any, undo: ExitStack) -> None:
    before = getattr(owner, name)
    setattr(owner, name, hook)

    def restore() -> None:
        if getattr(owner, name) is hook:  # else somebody has chained to us: stay, as a pass-through
            setattr(owner, name, before)

    undo.callback(restore)


def _hook_main(reporter: Reporter, undo: ExitStack) -> None:
    before = sys.excepthook
    active = _Active(undo)

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if active.on:
            reporter.report(error, "main")
        before(kind, error, trace)

    def at_exit() -> None:
        # An app that put its own hook in place of ours: the interpreter still leaves the exception here. With
        # ours in place it may be one that a console handled.
        if not exits.ours(sys.excepthook):
            reporter.report(getattr(sys, "last_value", None), "main")

    setattr(excepthook, exits.MARK, True)
    _put(sys, "excepthook", excepthook, undo)
    atexit.register(at_exit)
    undo.callback(atexit.unregister, at_exit)


def _hook_threads(reporter: Reporter, undo: ExitStack) -> None:
    before = threading.excepthook
    active = _Active(undo)

    def excepthook(args: threading.ExceptHookArgs, /) -> None:
        if active.on:
            reporter.report(args.exc_value, "thread")
        before(args)

    _put(threading, "excepthook", excepthook, undo)


def _hook_unraisable(reporter: Reporter, undo: ExitStack) -> None:
    before = sys.unraisablehook
    active = _Active(undo)

    def unraisablehook(args: sys.UnraisableHookArgs, /) -> None:
        if active.on:
            reporter.report(args.exc_value, "unraisable", args.err_msg or "")
        before(args)

    _put(sys, "unraisablehook", unraisablehook, undo)


def _hook_loop(loop_class: Any, reporter: Reporter, undo: ExitStack) -> None:
    before = loop_class.call_exception_handler
    active = _Active(undo)

    def call_exception_handler(self: Any, context: dict[str, Any]) -> None:
        if active.on:
            reporter.report(context.get("exception"), "asyncio", str(context.get("message") or ""))
        before(self, context)

    _put(loop_class, "call_exception_handler", call_exception_handler, undo)


class _Active:
    """True until the undo: a hook that somebody has chained to cannot be removed, only silenced."""

    def __init__(self, undo: ExitStack) -> None:
        self.on = True
        undo.callback(setattr, self, "on", False)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} whose str() fails>"
