"""Threads and locks of the operating system, also where gevent or eventlet has put its own in their place.

Our store's thread blocks in C; as a greenlet it would block the whole program. The names are bound when this
module is imported, which under ``opentelemetry-instrument`` is before the app can patch; where the patch was first,
the patcher hands out the originals.
"""

from __future__ import annotations

import _thread
import sys
from typing import Any


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
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )
