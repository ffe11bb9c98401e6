"""otel-perf: what is slow, why, and what it costs in memory, with no code change.

The public API. Names are imported when they are first used, so that ``import otel_perf`` costs
next to nothing; everything works, as a no-op, when no SDK is installed or the distribution is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from otel_perf.calls.decorators import monitored as monitored
    from otel_perf.distro import setup as setup
    from otel_perf.distro import shutdown as shutdown
    from otel_perf.memory.cached import cached as cached
    from otel_perf.memory.caches import LRUCache as LRUCache
    from otel_perf.memory.caches import TTLCache as TTLCache

_HOME_OF = {
    "LRUCache": "otel_perf.memory.caches",
    "TTLCache": "otel_perf.memory.caches",
    "cached": "otel_perf.memory.cached",
    "monitored": "otel_perf.calls.decorators",
    "setup": "otel_perf.distro",
    "shutdown": "otel_perf.distro",
}

__all__ = ["LRUCache", "TTLCache", "__version__", "cached", "monitored", "setup", "shutdown"]


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'otel_perf' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
