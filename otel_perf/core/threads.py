"""Threads and locks of the operating system, also where gevent or eventlet has put its own in their place.

Our store's thread blocks in C; as a greenlet it would block the whole program. The names are bound when this
module is imported, which under ``opentelemetry-instrument`` is before the app can patch; where the patch was first,
the patcher hands out the originals.
"""

from __future__ import annotations

import _thread
import sys
from typing import Any

_PATCHERS = (("gevent.monkey", "is_module_patched", "threading"), ("eventlet.patcher", "is_monkey_patched", "thread"))


def _original(name: str) -> Any:
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original("_thread", name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        return getattr(eventlet.original("_thread"), name)
    return getattr(_thread, name)


start_new_thread = _original("start_new_thread")
allocate_lock = _original("allocate_lock")
get_ident = _original("get_ident")


def is_patched() -> bool:
    """Whether gevent or eventlet has put its own in the place of ``threading``'s."""
    # By name: either may just be imported by another thread, and have nothing yet.
    for module, name, what in _PATCHERS:
        tell = getattr(sys.modules.get(module), name, None)
        if tell is not None and tell(what):
            return True
    return False
