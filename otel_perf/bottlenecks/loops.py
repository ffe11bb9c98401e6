"""Which event loop and task run here, without asyncio being imported where the app has no need of it (10 ms)."""

from __future__ import annotations

from sys import modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _running_once_imported() -> Any:
    global running, task
    found = modules.get("asyncio.tasks")  # its last modules come after events
    current: Any = getattr(found, "current_task", None)
    if current is None:
        return None
    running, task = modules["asyncio.events"]._get_running_loop, current
    return running()


def _no_task(_loop: Any) -> Any:
    return None


running: Callable[[], Any] = _running_once_imported
"""The loop that runs in this thread, or None. 25 ns once asyncio is there, 0.1 µs before."""
task: Callable[[Any], Any] = _no_task  # replaced before anybody has a loop to ask for
"""The task that the loop is running."""


def greenlets() -> bool:
    """Whether gevent or eventlet may have put greenlets in the place of threads. 60 ns."""
    return "gevent" in modules or "eventlet" in modules
