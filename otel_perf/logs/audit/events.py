"""``audit_event``: a record of who did what to what, on the disk when the call returns.

Works without an SDK and with the distribution off. Opened on first use; ``OTEL_PERF_HOME`` and the settings
``OTEL_PERF_LOGS_AUDIT_*`` are read then.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from otel_perf.core.clock import SYSTEM_CLOCK
from otel_perf.core.errors import SettingError
from otel_perf.core.forks import on_fork
from otel_perf.core.home import Home
from otel_perf.core.settings import load, variable
from otel_perf.logs.audit import chain, mirror
from otel_perf.logs.audit.database import New
from otel_perf.logs.audit.encoding import LONGEST, Fields, canonical, text
from otel_perf.logs.audit.waiting import Entry
from otel_perf.logs.audit.writer import Writer, result
from otel_perf.logs.redaction import MARK, Redactor
from otel_perf.logs.settings import LogsSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger("otel_perf")
_writer: Writer | None = None
_lock = threading.RLock()  # a signal handler may interrupt whoever has it
_warned = False


def audit_event(name: str, /, *, actor: str, target: str, outcome: str, **fields: Any) -> int:
    """Record that ``actor`` did ``name`` to ``target``, with ``outcome``; returns the record's sequence number.

    When it returns, the record is on the disk (one sync, a few milliseconds), chained and signed; records that threads
    make at the same time share a sync. ``fields`` may hold text, whole numbers of 64 bits, finite numbers, booleans,
    ``None``, lists, and dicts with text keys, up to 1 MB in all. The value of a field whose key names a secret
    (``password``, ``api_key``, what ``OTEL_PERF_LOGS_REDACT_KEYS`` adds) is replaced by the redaction mark: nothing can
    be taken out of a chain. Texts are kept as they are. The current trace, span and correlation ids are added.

    Thread-safe, and safe in signal handlers and after forks. In a coroutine use :func:`audit_event_async`: this one
    blocks the event loop meanwhile.

    Raises ``SettingError`` (a ``ValueError``) for a value that cannot be stored, and ``AuditError`` (an ``OSError``)
    when the record is not stored: a full disk, no rights, a key that is missing. It is never dropped silently.
    """
    _warn_in_loop()
    writer = current_writer()
    content = _content(writer, name, actor, target, outcome, fields)
    stored = writer.write(_encoded(content))
    mirror.record(content, stored)
    return stored.seq


async def audit_event_async(name: str, /, *, actor: str, target: str, outcome: str, **fields: Any) -> int:
    """As :func:`audit_event`, for asyncio: the task waits, the event loop does not.

    Records of many tasks share a sync. A task that is cancelled while it waits does not take its record back: it is
    stored, or was refused with nobody to tell.
    """
    import asyncio

    writer = current_writer()
    content = _content(writer, name, actor, target, outcome, fields)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not future.done():
            future.set_result(None)

    def done(_entry: Entry) -> None:
        loop.call_soon_threadsafe(settle)

    entry = Entry(New(chain.EVENT, _encoded(content), SYSTEM_CLOCK.time_ns()), done)
    writer.submit(entry)
    await future
    stored = result(entry)
    mirror.record(content, stored)
    return stored.seq


def current_writer() -> Writer:
    """The process's writer, made on first use."""
    global _writer
    found = _writer
    if found is None:
        chosen = settings(os.environ)  # before the lock: it runs the app's log handlers, which may make records
        with _lock:
            found = _writer
            if found is None:
                found = _writer = Writer(Home(os.environ), chosen)
                atexit.register(found.close)
    return found


def settings(environ: Mapping[str, str]) -> LogsSettings:
    """The settings; a wrong one of the trail is said, and its default used."""
    found, problems = load(LogsSettings, "logs", environ)
    for problem in problems:
        if problem.variable.startswith(variable("logs", "audit_")):
            _log.warning("otel-perf: %s", problem)
    return found


def close() -> None:
    """Write this process's last record and close the file; the next event opens it again. For tests and servers."""
    global _writer
    found, _writer = _writer, None
    if found is not None:
        atexit.unregister(found.close)
        found.close()


def _content(
    writer: Writer, name: str, actor: str, target: str, outcome: str, fields: Mapping[str, object]
) -> dict[str, Any]:
    event = repr(text("…", "the name", name))
    content: dict[str, Any] = {
        "name": name,
        "actor": text(event, "actor", actor),
        "target": text(event, "target", target),
        "outcome": text(event, "outcome", outcome),
        "process": writer.process,
        **_ids(),
    }
    if fields:
        redactor = _redactor(writer.settings.redact_keys)
        content["fields"] = Fields(event, redactor.is_secret, redactor.labels, MARK).copy(fields)
    return content


@cache
def _redactor(more: str) -> Redactor:
    """What tells whether a field's name is that of a secret; ``more`` names, as the user set them."""
    return Redactor(more.split(","))


def _encoded(content: dict[str, Any]) -> bytes:
    body = canonical(content)
    if len(body) > LONGEST:
        raise SettingError(f"audit_event({content['name']!r}): the record has {len(body):,} bytes of {LONGEST:,}")
    return body


def _ids() -> dict[str, str]:
    """The ids of where we are, the same as a log line's. What was never imported has none to give, and is not for it.

    Imported here: a record is stored as well where OpenTelemetry cannot be imported.
    """
    found: dict[str, str] = {}
    if "opentelemetry.trace" not in sys.modules:
        return found
    try:
        from otel_perf.core.correlation import current
        from otel_perf.core.ids import SPAN_KEY
        from otel_perf.core.served import carried

        context = carried()
        span: Any = context.get(SPAN_KEY)
        ids = None if span is None else span.get_span_context()
        if ids is not None and ids.trace_id:
            found["trace"] = f"{ids.trace_id:032x}"
            if ids.span_id:  # work that has no span yet may have a trace id
                found["span"] = f"{ids.span_id:016x}"
        if identifier := current(context):
            found["correlation"] = identifier
    except Exception:
        _log.debug("otel-perf: an audit record goes without ids", exc_info=True)
    return found


def _warn_in_loop() -> None:
    """Say once that the event loop waits for the disk."""
    global _warned
    # Its own module, which has the function as soon as it is there: a package that is being imported does not yet.
    running = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    if not _warned and running is not None and running() is not None:
        _warned = True
        _log.warning(
            "otel-perf: audit_event blocks the event loop while it waits for the disk: await audit_event_async"
        )


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


on_fork(child=_renew_lock)
