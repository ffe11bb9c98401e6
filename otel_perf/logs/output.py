"""Has the app's stream and file handlers write lines in our format, whatever formatter the app gives them, and when.

Every such handler turns a record into its line by ``format``, which :class:`logging.StreamHandler` inherits; ours takes
its place there. So handlers, levels, filters and formatters stay the app's, ``logging.lastResort`` is one of them, and
what is no stream or file is left alone: a queue's handler formats the message for the one at its end, a mail's or a
syslog's for its receiver. A class with a ``format`` of its own keeps it, and so do the handlers by which test runners
and documentation tools show records to people.
"""

from __future__ import annotations

import logging
import logging.handlers
from re import compile as expression
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_perf.logs.line_parts import hand

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard
    from otel_perf.logs.redaction import Redactor
    from otel_perf.logs.settings import LogsSettings

_PLAIN: Final = frozenset(
    {
        logging.StreamHandler, logging.FileHandler, type(logging.lastResort), logging.handlers.RotatingFileHandler,
        logging.handlers.TimedRotatingFileHandler, logging.handlers.WatchedFileHandler,
    }
)  # fmt: skip
_OTHERS: Final = ("_pytest.", "pytest_", "sphinx.")  # modules whose handlers show records in a way of their own
_UNICODE: Final = ("utf", "u8")  # begin the names of encodings that have every sign
_BEYOND: Final = expression(r"[^\x00-\x7f]")


class LineEncoder(Protocol):
    """:class:`otel_perf.logs.json_format.Encoder` and :class:`otel_perf.logs.text_format.TextEncoder`."""

    def line(self, record: logging.LogRecord) -> str:
        """``record`` as a line; never raises."""
        ...

    @property
    def compose(self) -> Callable[..., str]:
        """Makes a line of what is no record; never raises."""
        ...


def encoder_for(settings: LogsSettings, host: Host, redactor: Redactor | None) -> LineEncoder | None:
    """The encoder that the settings ask for; ``None`` if lines are to stay as the app makes them."""
    if settings.format == "json":
        from otel_perf.logs.json_format import Encoder

        return Encoder(host.service_name, fields=settings.fields, limit=settings.line, redactor=redactor)
    if settings.format == "text":
        from otel_perf.logs.text_format import TextEncoder

        return TextEncoder(host.service_name, limit=settings.line, redactor=redactor)
    return None


def install(encoder: LineEncoder, guard: Guard, undo: ExitStack) -> None:
    """Put ours in the place of ``format``."""
    kind: Any = logging.StreamHandler
    before = vars(kind).get("format")
    original: Any = kind.format
    active = [True]
    make = encoder.line

    def format(self: Any, record: logging.LogRecord) -> str:  # noqa: A001  the method's name
        if not active or not (type(self) in _PLAIN or _is_ours(type(self), format)):
            return str(original(self, record))
        try:
            line = make(record)
            return line if line.isascii() else _for_stream(line, self)
        except RecursionError:  # the app is at the end of its stack: no error of ours
            return str(original(self, record))
        except Exception as error:
            guard.handle(error)
            return str(original(self, record))

    kind.format = format

    def restore() -> None:
        active.clear()
        if vars(kind).get("format") is not format:
            return  # somebody patched after us, and keeps calling through ours
        if before is None:
            del kind.format
        else:
            kind.format = before

    undo.callback(restore)
    _install_hand(guard, undo)


def _install_hand(guard: Guard, undo: ExitStack) -> None:
    """A queue's handler makes a text of message and traceback; the line at the queue's end has them apart."""
    kind: Any = logging.handlers.QueueHandler
    original = kind.prepare
    active = [True]

    def prepare(self: Any, record: logging.LogRecord) -> Any:
        made = original(self, record)
        if active and made is not record:
            try:
                hand(record, made)
            except Exception as error:
                guard.handle(error)
        return made

    kind.prepare = prepare

    def restore() -> None:
        active.clear()
        if kind.prepare is prepare:
            kind.prepare = original

    undo.callback(restore)


def _is_ours(kind: type, ours: Any) -> bool:
    """Whether a handler's class has no ``format`` of its own, and shows its records to no one in its own way."""
    return getattr(kind, "format", None) is ours and not kind.__module__.startswith(_OTHERS)


def _for_stream(line: str, handler: Any) -> str:
    """``line`` as the handler's stream can carry it: a console in ASCII or Latin-1 would refuse or break it."""
    encoding = getattr(getattr(handler, "stream", None), "encoding", None)  # a class may write elsewhere, without one
    if not isinstance(encoding, str) or encoding.lower().startswith(_UNICODE):
        return line
    return _BEYOND.sub(_escaped, line)


def _escaped(found: Any) -> str:
    number = ord(found[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
