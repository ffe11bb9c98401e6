"""The present health of this process, for who asks it in the process itself."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from otel_perf.core.health import WORDS
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.health.changes import Change
    from otel_perf.health.runner import Report, Runner

    Listener = Callable[[dict[str, Any]], Any]

running: list[Runner] = []
listeners: list[Listener] = []
_untold: deque[dict[str, Any]] = deque(maxlen=1000)
_telling = allocate_lock()  # held by the thread that tells
_log = logging.getLogger("otel_perf")


def report() -> Report | None:
    """What the latest look has left; ``None`` while nobody looks."""
    return running[-1].report if running else None


def status() -> dict[str, Any]:
    """How this process is, as plain data; asks no check.

    ``status`` is ``"healthy"``, ``"degraded"`` or ``"unhealthy"``; ``live``, ``ready`` and ``started`` are what the
    probes answer; ``checks`` is a list of mappings with ``name``, ``status``, ``reason``, ``critical``, ``time`` and
    more. While the feature is off, or there is no SDK, nothing is checked, and nothing known to be wrong.
    """
    found = report()
    if found is None:
        return {"status": WORDS[0], "live": True, "ready": True, "started": True, "checks": []}
    return {**found, "checks": [dict(check) for check in found["checks"]]}


def on_change(listener: Listener) -> Callable[[], None]:
    """Have a function called with each change that is told: ``name``, ``status``, ``before``, ``reason`` in a mapping.

    It is called in a thread of ours, with one change after the other; what it raises is logged. A check that goes to
    and fro is told once, with ``flapping``, and again when it has come to rest. The returned function ends it.
    """
    listeners.append(listener)

    def end() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return end


def tell(change: Change) -> None:
    """Tell the app, in a thread of its own: a listener that hangs holds up the next changes, and no check."""
    if not listeners:
        return
    _untold.append(
        {
            "name": change.name,
            "status": WORDS[change.status],
            "before": WORDS[change.before],
            "reason": change.reason,
            "critical": change.critical,
            "flapping": change.flapping,
        }
    )
    if _telling.acquire(blocking=False):
        try:
            start_new_thread(_tell, ())
        except RuntimeError:  # no more threads
            _telling.release()


def after_fork_in_child() -> None:
    """The thread is the parent's, and so are its changes."""
    global _telling
    _telling = allocate_lock()
    _untold.clear()


def _tell() -> None:
    while _untold:
        told = _untold.popleft()
        for listener in tuple(listeners):
            try:
                listener(dict(told))
            except BaseException:  # it does not end the telling
                _log.warning("otel-perf: %r, called because %s changed, failed", listener, told["name"], exc_info=True)
    _telling.release()
    if _untold and _telling.acquire(blocking=False):  # it came between the last look and the release
        _tell()
