"""Makes known how the process is: a file in the home folder, and the port, where one is to be had."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.threads import allocate_lock
from otel_perf.health import files
from otel_perf.health.documents import STALE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_perf.core.home import Home
    from otel_perf.health.runner import Report
    from otel_perf.health.server import Server

YOUNG: Final = 1.0  # seconds: a program that ends sooner leaves no folder behind
REFRESH: Final = 5.0  # seconds after which the file is written again, changed or not
LOOK: Final = 0.5  # seconds between looks at the files of others
RETRY: Final = REFRESH  # seconds after which a folder that could not be written to is tried again: before it is STALE

_log = logging.getLogger("otel_perf")


class Publisher:
    """:meth:`publish` is for the thread of the checks, the rest for any."""

    def __init__(
        self, home: Home, port: int, server: Server | None, *, file: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._port = port
        self._server = server
        self._file = file
        self._clock = clock
        self._ended = False
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The parent's file is the parent's."""
        self._lock = allocate_lock()
        self._path: Path | None = None
        self._written: Any = None  # what the file says, times aside,
        self._good = 0.0  # and when that was written
        self._due = self._clock() + YOUNG
        self._look = 0.0
        self._siblings: list[Report] = []
        self._seen = False  # that there are any

    def publish(self, report: Report) -> None:
        """Called after each look at the checks."""
        now = self._clock()
        if self._server is not None:  # first: whatever becomes of the file, the port answers
            self._server.reports = (self._told(report), *self._siblings)
            self._server.bind()
            if self._server.is_bound and self._file and now >= self._look:
                self._look = now + LOOK
                self._siblings = self._others(report["pid"])
                self._seen = self._seen or bool(self._siblings)
                self._server.reports = (self._told(report), *self._siblings)
        if self._file:
            with self._lock:
                self._write(report, now)

    def withdraw(self, *, ended: bool = False) -> None:
        """The process ends, or may end: what it said is not true any more. If it goes on, it says so again."""
        with self._lock:
            self._ended = self._ended or ended
            path, self._path = self._path, None
            self._due = self._clock() + REFRESH
            self._remove(path)

    def _remove(self, path: Path | None) -> None:
        if path is not None:
            with suppress(OSError):
                path.unlink()

    def _told(self, report: Report) -> Report:
        """Of a master, whose workers have the app's checks, that it is not ready before they have been seen."""
        if not report.get("leaves") or self._seen or not self._file:
            return report
        unseen = f"the workers of {report['pid']} have not said how they are; can it read what their user writes?"
        return {**report, "ready": False, "started": False, "silent": unseen}

    def _write(self, report: Report, now: float) -> None:
        checks = [(check["name"], check["status"], check["reason"]) for check in report["checks"]]
        said = (report["live"], report["ready"], report["started"], checks)
        if self._ended or (now < self._due and (self._path is None or said == self._written)):
            return
        self._due = now + REFRESH
        try:
            before, self._path = self._path, files.write(self._home, {**report, "port": self._port})
            self._written, self._good = said, now
            if before not in {None, self._path}:
                self._remove(before)
        except OSError as error:
            self._due = now + RETRY
            if said != self._written or now - self._good + RETRY >= STALE:  # what it says is not true, or will not be
                self._remove(self._path)
                self._path = None
            _log.debug("otel-perf: %s cannot be told how the process is: %s", self._home.path, error)

    def _others(self, own: int) -> list[Report]:
        """The other processes that were told the same port: workers, mostly, and who started them."""
        found = files.read(self._home)
        siblings = [report for report in found if report.get("port") == self._port and report["pid"] != own]
        return [{**report, "sibling": True} for report in siblings]
