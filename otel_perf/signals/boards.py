"""Which board: in the home folder's file, in memory, or at a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.errors import SettingError, SignalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.core.home import Home
    from otel_perf.signals.board import Board
    from otel_perf.signals.settings import SignalsSettings


def open_board(settings: SignalsSettings, home: Home, say: Callable[[str], None]) -> Board:
    """The board that the settings name. Raises ``SettingError``, ``SignalError``."""
    url = settings.url.strip()
    if url == "memory:":
        from otel_perf.signals.memory_board import MemoryBoard

        return MemoryBoard()
    if url:
        raise SettingError(f"OTEL_PERF_SIGNALS_URL={url!r}: it must be empty (the home folder) or memory:")
    from otel_perf.signals.sqlite_board import FILE, SqliteBoard

    try:
        folder = home.make()
    except OSError as error:
        raise SignalError(f"the signal board cannot be made: {error}; OTEL_PERF_HOME names another folder") from error
    return SqliteBoard(folder / FILE, say=say)
