"""Where a durable record goes besides: to the log events, if the logs feature is on. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from otel_perf.core.feature import Host
    from otel_perf.logs.audit.chain import Checkpoint
    from otel_perf.logs.audit.database import Stored

CHECKPOINT: Final = Event(
    "perf.audit.checkpoint", "A signed end of the audit trail; kept elsewhere, it shows later that the end was not cut"
)

_send: Callable[[Event, Mapping[str, Any]], None] | None = None


def install(host: Host, undo: ExitStack) -> None:
    """Send records and checkpoints to the host's events."""
    global _send
    guard = host.guard("logs")

    def send(event: Event, attributes: Mapping[str, Any]) -> None:
        with guard:
            host.event(event, attributes)

    def restore() -> None:
        global _send
        if _send is send:
            _send = None

    _send = send
    undo.callback(restore)


def record(content: Mapping[str, Any], stored: Stored) -> None:
    """Emit an event with the record's own name, in the caller's context; its fields keep their names."""
    send = _send
    if send is not None:
        ours = {f"perf.audit.{part}": content[part] for part in ("actor", "target", "outcome")}
        place = {"perf.audit.sequence": stored.seq, "perf.audit.hash": stored.hash}
        send(Event(content["name"], ""), {**content.get("fields", {}), **ours, **place})


def checkpoint(found: Checkpoint) -> None:
    """Emit the end of the trail."""
    send = _send
    if send is not None:
        names = {"trail": found.trail, "sequence": found.seq, "hash": found.hash, "key": found.key, "seal": found.seal}
        send(CHECKPOINT, {f"perf.audit.{name}": value for name, value in names.items()})
