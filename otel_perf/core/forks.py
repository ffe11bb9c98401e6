"""What has to happen around ``os.fork``, in order, and removable.

``os.register_at_fork`` cannot be undone and knows no order between libraries; here one registration
serves all subscribers. ``before`` runs newest first (as locks are taken), the others oldest first.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Final, TypeVar

from otel_perf.core import wakeups
from otel_perf.core.records import entity
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log = logging.getLogger("otel_perf")
T = TypeVar("T")


@entity
class _Subscriber:
    before: Callable[[], None] | None
    parent: Callable[[], None] | None
    child: Callable[[], None] | None


_subscribers: list[_Subscriber] = []
_held_back: list[Callable[[], Iterable[int]]] = []
_blocked: dict[int, set[int]] = {}  # by the thread that forks: signals that are blocked for it
_holding = False  # the hooks that block them are registered
_new = False  # this process was just forked, and its hooks are not through
_registered = False


def on_fork(
    *,
    before: Callable[[], None] | None = None,
    parent: Callable[[], None] | None = None,
    child: Callable[[], None] | None = None,
) -> Callable[[], None]:
    """Call these around every fork from now on; the returned function ends it.

    None of them may block without a bound: the fork waits for them.
    """
    _register()
    return _added(_subscribers, _Subscriber(before, parent, child))


def _added(items: list[T], item: T) -> Callable[[], None]:
    items.append(item)

    def remove() -> None:
        if item in items:
            items.remove(item)

    return remove


def _register() -> None:
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(before=_before, after_in_parent=_parent, after_in_child=_child)


def hold_back(signals: Callable[[], Iterable[int]]) -> Callable[[], None]:
    """Block these signals around a fork; the returned function ends it.

    A signal that has a handler of Python's is lost when it comes to a child too early: CPython forgets there what it
    has not handled (``_PySignal_AfterFork``). ``Pool.terminate`` sends SIGTERM to workers that may just have been
    forked, once, and waits for them for ever. The handlers must not raise: what a hook of a fork raises is dropped.
    """
    global _holding
    _register()  # first: in the child, its hook is the one that lets them through
    if not _holding and hasattr(os, "register_at_fork"):
        # Hooks of their own, which run whatever the others raise: a signal that stays blocked is worse than a lost one.
        _holding = True
        os.register_at_fork(before=_block, after_in_parent=_let_through, after_in_child=_child_is_ready)
    return _added(_held_back, signals)


def is_new_child() -> bool:
    """Whether this process was just forked, so that hooks of the fork are still to run: it has done nothing yet."""
    return _new


def _block() -> None:
    wanted = {number for tell in _held_back for number in tell()}
    ours = wanted.difference(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if ours:
        thread = get_ident()
        _blocked[thread] = _blocked.get(thread, set()) | ours  # first: a handler may raise in the midst
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)


def _let_through() -> None:
    thread = get_ident()
    try:
        if thread in _blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _blocked[thread])  # what came meanwhile is handled here
    finally:
        _blocked.pop(thread, None)


def _child_is_ready() -> None:
    global _new
    _new = False
    _let_through()
    _blocked.clear()  # of the parent's other threads


def _run(callback: Callable[[], None] | None) -> None:
    if callback is None:
        return
    try:
        callback()
    except Exception:
        _log.warning("otel-perf: a fork handler failed", exc_info=True)


def _before() -> None:
    for subscriber in reversed(_subscribers):
        _run(subscriber.before)
    _run(_silence)


def _parent() -> None:
    if sys.version_info < (3, 13):  # later Pythons warn after this handler: there the filter stays until the next fork
        _run(_speak)
    for subscriber in tuple(_subscribers):
        _run(subscriber.parent)


def _child() -> None:
    global _new
    _new = _holding
    _run(wakeups.forget)  # before a signal can come
    _run(_let_through)  # before threads are started, which would inherit the mask, as what they execute would
    _run(_speak)
    for subscriber in tuple(_subscribers):
        _run(subscriber.child)


# Since 3.12 Python warns of a fork in a process with threads. Where the only threads are ours and the SDK's, which
# are made to survive a fork, the app would print a line that it did not print without us.
_OURS: Final = ("OtelPeriodic", "OtelBatch", "otel-perf", "Dummy")  # the store's has no name of its own
_WARNING: Final = ("ignore", re.compile(".*use of fork.* may lead to deadlocks"), DeprecationWarning, None, 0)


def _silence() -> None:
    _speak()
    others = [thread for thread in threading.enumerate() if not thread.name.startswith(_OURS)]
    if len(others) <= 1:
        warnings.filters.insert(0, _WARNING)  # type: ignore[attr-defined]


def _speak() -> None:
    if _WARNING in warnings.filters:
        warnings.filters.remove(_WARNING)  # type: ignore[attr-defined]


def reset_locks(root: object, package: str) -> int:
    """Release every lock that hangs on ``root``, in a child where its holder does not exist.

    The SDK re-makes some of its locks after a fork, but not those of its metric storages: a child whose
    parent was recording at that instant would wait for ever. Walks instances of classes of ``package``
    and the containers between them. Returns how many locks were released.
    """
    import gc

    lock_type = type(threading.Lock())
    released = 0
    seen: set[int] = set()
    todo: list[object] = [root]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, lock_type):
            item._at_fork_reinit()  # type: ignore[attr-defined]
            released += 1
        elif isinstance(item, dict | list | tuple | set) or type(item).__module__.startswith(package):
            todo.extend(
                child for child in gc.get_referents(item) if not isinstance(child, type | str | int | float | bytes)
            )
    return released
