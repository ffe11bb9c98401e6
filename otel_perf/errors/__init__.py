"""Uncaught errors become the event ``perf.uncaught_error``; whatever happened before still happens.

Hooks ``sys.excepthook``, ``threading.excepthook``, ``sys.unraisablehook`` and the exception handling of
asyncio's and uvloop's loops. Each hook emits its event and calls the one that was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, NoSettings, Parts

if TYPE_CHECKING:
    from contextlib import ExitStack


class ErrorsFeature(Feature[NoSettings]):
    """Reports uncaught errors of threads, tasks, callbacks and finalizers."""

    name = "errors"
    summary = "uncaught errors as events, with their trace"
    emits = sequence.ERROR_HANDLING

    def provide(self, settings: NoSettings, host: Host, parts: Parts) -> None:
        """Add the processors."""
        from otel_perf.core.origin import OriginProcessor

        parts.span_processors.append(OriginProcessor())

    def install(self, settings: NoSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.errors.hooks import install

        install(host, host.guard(self.name), undo)

    def prove(self) -> None:
        """See that it is asked first."""
        import sys

        if sys.excepthook is sys.__excepthook__:
            raise RuntimeError("sys.excepthook is not ours")


FEATURE = ErrorsFeature()
