"""What can be set of the logs."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time


@dataclass(frozen=True, slots=True)
class LogsSettings:
    """How records look, what is left out, and how the audit trail is kept."""

    requests: bool = field(
        default=True,
        metadata={"doc": "One wide record, the event `perf.request`, for each request served and message handled."},
    )
    summary: Duration = field(
        default=60.0,
        metadata={"doc": "Time between two summaries, the event `perf.summary`; 0 makes none, at the end neither (s)."},
    )
    span_events: bool = field(
        default=True,
        metadata={"doc": "Events become events of the current span as well."},
    )
    audit_key: str = field(
        default="",
        metadata={"doc": "File of the private key that signs the audit trail; else `audit.key` in the home folder."},
    )
    audit_checkpoints: str = field(
        default="",
        metadata={
            "doc": "File to which signed checkpoints of the audit trail are appended, best on another volume;"
            " else `audit.checkpoints` in the home folder."
        },
    )
    audit_heartbeat: Duration = field(
        default=60.0,
        metadata={"doc": "A process that writes no audit record for so long writes that it lives; 0 never (s)."},
    )
    audit_keep: Duration = field(
        default=0.0,
        metadata={"doc": "Audit records older than this are removed, with a signed cut; 0 keeps all (s)."},
    )
