"""Which board: in the home folder's file, in memory, or at a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.errors import MissingExtraError, SettingError, SignalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_perf.core.home import Home
    from otel_perf.signals.board import Board
    from otel_perf.signals.judge import Judge
    from otel_perf.signals.settings import SignalsSettings


def open_board(
    settings: SignalsSettings, home: Home, say: Callable[[str], None], judge: Judge | None = None,
    patience: float | None = None,
) -> Board:  # fmt: skip
    """The board that the settings name; ``patience``: seconds for a server that is away, 5 if it is not given.

    Raises ``SettingError``, ``MissingExtraError``, ``SignalError``.
    """
    url = settings.url.strip()
    if url == "memory:":
        from otel_perf.signals.memory_board import MemoryBoard

        return MemoryBoard()
    if url:
        return _nats_board(settings, judge, patience)
    from otel_perf.signals.sqlite_board import FILE, SqliteBoard

    try:
        folder = home.make()
    except OSError:
        folder = _fallback(home)
    return SqliteBoard(folder / FILE, say=say)


def _fallback(home: Home) -> Path:
    """The folder that every process of this user has for a home that cannot be written."""
    try:
        return home.fallback()
    except OSError as error:
        raise SignalError(f"the signal board cannot be made: {error}; OTEL_PERF_HOME names another folder") from error


def _nats_board(settings: SignalsSettings, judge: Judge | None, patience: float | None) -> Board:
    from otel_perf.signals.nats_address import SCHEMES, address_of, without_password

    if not settings.url.strip().startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise SettingError(
            f"OTEL_PERF_SIGNALS_URL={without_password(settings.url)!r}: it must be empty (the home folder), memory:,"
            " nats://host:port or tls://host:port"
        )
    address = address_of(settings)
    try:
        from otel_perf.signals.nats_board import NatsBoard
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"OTEL_PERF_SIGNALS_URL={address.place}", "nats") from error
    return NatsBoard(address, judge=judge if judge is not None and judge.judges else None, patience=patience)
