"""Watches the flags while the program runs: the flag file, and an OpenFeature provider if the app uses one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from otel_perf.core.forks import on_fork
from otel_perf.core.patches import on_import

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard

FILE_EVERY: Final = 1.0  # seconds between looks at the flag file
PROVIDER_EVERY: Final = 5.0  # seconds between questions to an OpenFeature provider, which may ask another machine


class FlagWatch:
    """A daemon thread that reads the flags again and again; none before there are flags, one of its own in a child.

    A provider's events are not listened to: OpenFeature calls listeners in threads that do not survive a fork, after
    which those of the app would not be called either.
    """

    def __init__(self, reload: Callable[[], None], guard: Callable[[], Guard]) -> None:
        self._reload = reload
        self._guard = guard
        self._every = 0.0
        self._stop: threading.Event | None = None

    def install(self, undo: ExitStack, *, file: bool) -> None:
        """Begin where there is a flag ``file``, and when the app imports OpenFeature; the undo ends it."""
        undo.callback(self._end)
        undo.callback(on_fork(child=self._after_fork_in_child))
        if file:
            self._begin(FILE_EVERY)
        on_import("openfeature.api", lambda _: self._begin(PROVIDER_EVERY), undo, self._guard())

    def _begin(self, every: float) -> None:
        if self._stop is None:
            self._every, self._stop = every, threading.Event()
            threading.Thread(target=self._run, args=(self._stop,), name="otel-perf-flags", daemon=True).start()

    def _end(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop.set()

    def _after_fork_in_child(self) -> None:
        if self._stop is not None:
            self._stop = None
            self._begin(self._every)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            try:
                self._reload()
            except Exception as error:
                self._guard().handle(error)
