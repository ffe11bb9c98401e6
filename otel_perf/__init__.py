"""otel-perf: what is slow, why, and what it costs in memory, with no code change.

The public API. Names are imported when they are first used, so that ``import otel_perf`` costs
next to nothing; everything works, as a no-op, when no SDK is installed or the distribution is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from otel_perf import health as health
    from otel_perf import signals as signals
    from otel_perf.calls.decorators import monitored as monitored
    from otel_perf.core.cleaning import cleanup_task as cleanup_task
    from otel_perf.core.correlation import correlation as correlation
    from otel_perf.distro import setup as setup
    from otel_perf.distro import shutdown as shutdown
    from otel_perf.logs.audit.events import audit_event as audit_event
    from otel_perf.logs.audit.events import audit_event_async as audit_event_async
    from otel_perf.logs.events import business_event as business_event
    from otel_perf.logs.events import events as events
    from otel_perf.logs.middleware import CorrelationMiddleware as CorrelationMiddleware
    from otel_perf.logs.middleware import WSGICorrelationMiddleware as WSGICorrelationMiddleware
    from otel_perf.memory.cached import cached as cached
    from otel_perf.memory.caches import LRUCache as LRUCache
    from otel_perf.memory.caches import TTLCache as TTLCache
    from otel_perf.memory.collections import BoundedDeque as BoundedDeque
    from otel_perf.memory.collections import BoundedDict as BoundedDict
    from otel_perf.memory.collections import BoundedSet as BoundedSet
    from otel_perf.memory.pressure import on_memory_pressure as on_memory_pressure
    from otel_perf.memory.priority_queue import BoundedPriorityQueue as BoundedPriorityQueue
    from otel_perf.memory.singletons import singletons as singletons

_HOME_OF = {
    "BoundedDeque": "otel_perf.memory.collections",
    "BoundedDict": "otel_perf.memory.collections",
    "BoundedPriorityQueue": "otel_perf.memory.priority_queue",
    "BoundedSet": "otel_perf.memory.collections",
    "CorrelationMiddleware": "otel_perf.logs.middleware",
    "LRUCache": "otel_perf.memory.caches",
    "TTLCache": "otel_perf.memory.caches",
    "WSGICorrelationMiddleware": "otel_perf.logs.middleware",
    "audit_event": "otel_perf.logs.audit.events",
    "audit_event_async": "otel_perf.logs.audit.events",
    "business_event": "otel_perf.logs.events",
    "cached": "otel_perf.memory.cached",
    "cleanup_task": "otel_perf.core.cleaning",
    "correlation": "otel_perf.core.correlation",
    "events": "otel_perf.logs.events",
    "health": "otel_perf.health",
    "monitored": "otel_perf.calls.decorators",
    "on_memory_pressure": "otel_perf.memory.pressure",
    "setup": "otel_perf.distro",
    "shutdown": "otel_perf.distro",
    "signals": "otel_perf.signals",
    "singletons": "otel_perf.memory.singletons",
}

__all__ = [
    "BoundedDeque",
    "BoundedDict",
    "BoundedPriorityQueue",
    "BoundedSet",
    "CorrelationMiddleware",
    "LRUCache",
    "TTLCache",
    "WSGICorrelationMiddleware",
    "__version__",
    "audit_event",
    "audit_event_async",
    "business_event",
    "cached",
    "cleanup_task",
    "correlation",
    "events",
    "health",
    "monitored",
    "on_memory_pressure",
    "setup",
    "shutdown",
    "signals",
    "singletons",
]


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'otel_perf' has no attribute {name!r}")
    from importlib import import_module

    found = import_module(module)
    value = found if module == f"otel_perf.{name}" else getattr(found, name)  # a feature whose API is its module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
