"""Keeps the index up to date from a process beside the server, and tells pages when there is something new."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec

from otel_perf.core.errors import StoreError
from otel_perf.store.database import StoreReader
from otel_perf.view.reading import Question, Reading
from otel_perf.view.summaries import state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

LOOK: Final = 1.0  # seconds between two looks
AGAIN: Final = 5.0  # seconds until an indexer that ended is started again
SILENCE: Final = 15.0  # seconds after which a stream says that it is still there
STREAMS: Final = 30


class Indexer:
    """The process that builds the index; started again if it ends."""

    def __init__(self, index: Path, homes: Sequence[Path]) -> None:
        self._command = [sys.executable, "-P", "-m", "otel_perf.analysis.index", str(index), *map(str, homes)]
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._ended = 0.0
        self.problem = ""

    def keep(self) -> None:
        """Start it where it does not run."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                if time.monotonic() - self._began > AGAIN:
                    self.problem = ""  # it runs
                return
            self._process, self._ended = None, time.monotonic()
            self.problem = f"the indexer ended with {status}, and is started again"
        if not self._ended or time.monotonic() - self._ended > AGAIN:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            self._began = time.monotonic()

    def stop(self) -> None:
        """End it; it goes on where it was the next time."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Live:
    """What the pages that are open are told."""

    def __init__(self, index: Path, homes: Sequence[Path]) -> None:
        self._reading = Reading(index)
        self._homes = homes
        self._indexer = Indexer(index, homes)
        self._news = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="otel-perf-live")  # a connection is of one thread
        self._streams = 0
        self.message = b""

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop``."""
        try:
            while not stop.is_set():
                self._indexer.keep()
                said = await asyncio.get_running_loop().run_in_executor(self._thread, self._look_or_say)
                if said != self.message:
                    self.message = said
                    async with self._news:
                        self._news.notify_all()
                try:
                    await asyncio.wait_for(stop.wait(), LOOK)
                except TimeoutError:
                    continue
        finally:
            await asyncio.to_thread(self._indexer.stop)
            self._thread.shutdown(wait=False)
            async with self._news:
                self._news.notify_all()

    def _look_or_say(self) -> bytes:
        try:
            return self._look()
        except (sqlite3.Error, OSError) as error:
            self._reading.close()  # whatever it is, the next look may do better
            return msgspec.json.encode({"items": {}, "problem": f"the index: {error}"})

    def _look(self) -> bytes:
        """The state as JSON; cheap where nothing is new."""
        if not self._reading.begin():
            return msgspec.json.encode({"indexing": True, "behind": self._behind({}), "items": {}})
        done = dict(
            self._reading.rows(
                "SELECT store.home, max(last) FROM progress JOIN store ON store.id = progress.store GROUP BY 1"
            )
        )
        behind = self._behind(done)
        found = state(self._reading, Question({}))
        return msgspec.json.encode({**found, "indexing": behind > 0, "behind": behind, "problem": self._problem()})

    def _problem(self) -> str:
        """What keeps something from being shown."""
        rows = self._reading.rows("SELECT home, problem, skipped FROM store WHERE problem <> '' OR skipped > 0")
        said = [self._indexer.problem]
        for home, problem, skipped in rows:
            said.append(problem)
            if skipped:
                said.append(f"{skipped} batches of {home} cannot be shown: they are too large, or no OTLP")
        return "; ".join(filter(None, said))

    def _behind(self, done: dict[str, int]) -> int:
        """How many items are not in the index yet."""
        behind = 0
        for home in self._homes:
            try:
                reader = StoreReader(home)
            except StoreError:
                continue
            try:
                last = done.get(str(home), 0)
                if reader.last_id() > last:
                    behind += reader.items(after=last)
            except sqlite3.Error:
                continue  # the indexer says why
            finally:
                reader.close()
        return behind

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: the state now, and whenever it changes."""
        self._streams += 1
        try:
            told = b""
            while True:
                if self.message != told:
                    told = self.message
                    yield b"data: " + told + b"\n\n"
                async with self._news:
                    if self.message == told:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._news.wait(), SILENCE)
                if self.message == told:
                    yield b": still here\n\n"
        finally:
            self._streams -= 1

    @property
    def is_full(self) -> bool:
        """Whether no more pages are told."""
        return self._streams >= STREAMS
