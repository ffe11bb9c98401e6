"""The exceptions that otel-perf raises to its callers.

::

    OtelPerfError
    ├── SettingError (ValueError)      a setting or argument has a value that cannot be used
    ├── EventError (ValueError)        a business event does not fit what was registered; raised in tests only
    ├── MissingExtraError (ImportError)  a part needs an extra that is not installed
    ├── StoreError (OSError)           the embedded store cannot be opened or read
    ├── AuditError (OSError)           an audit record is not stored, or the audit trail cannot be read
    └── SignalError (OSError)          the signal board cannot be used
        ├── SignalAwayError            its server does not answer, and may later
        ├── SignalFailedError          a signal that was waited for says failed
        └── SignalTimeoutError (TimeoutError)  what was waited for did not come in time

Nothing of this tree is ever raised into an instrumented application: there, errors are counted
and logged by :mod:`otel_perf.core.guard`. The exception is what the app asked for by a call: ``audit_event``
raises when its record is not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class OtelPerfError(Exception):
    """Base of every exception of this package."""


class SettingError(OtelPerfError, ValueError):
    """A setting or argument has a value that cannot be used; the message names the remedy."""


class EventError(OtelPerfError, ValueError):
    """A business event is not what was registered; the message names the field, its value and the remedy."""


class MissingExtraError(OtelPerfError, ImportError):
    """A part of otel-perf needs an optional dependency that is not installed."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} needs an extra: pip install 'otel-perf[{extra}]'")
        self.extra = extra


class StoreError(OtelPerfError, OSError):
    """The embedded store cannot be opened, read or written."""


class AuditError(OtelPerfError, OSError):
    """An audit record is not stored, or the audit trail cannot be read; the message names the remedy."""


class SignalError(OtelPerfError, OSError):
    """The signal board cannot be used; the message names it and the remedy."""


class SignalAwayError(SignalError):
    """The server of a signal board does not answer; it may later."""


class SignalFailedError(SignalError):
    """A signal that was waited for says failed; ``signals`` are those, each with its reason."""

    def __init__(self, signals: Sequence[Any]) -> None:
        said = "; ".join(f"{s.name} failed: {s.reason or 'no reason was given'} ({s.producer})" for s in signals)
        super().__init__(said)
        self.signals = tuple(signals)


class SignalTimeoutError(SignalError, TimeoutError):
    """What was waited for did not come in time: names what is missing, and who was last heard of."""

    def __init__(
        self, text: str, missing: tuple[str, ...], found: tuple[Any, ...] = (), cycle: tuple[str, ...] = ()
    ) -> None:
        super().__init__(text)
        self.missing = missing
        self.found = found
        self.cycle = cycle
