"""What can be set of the logs. All that changes what the app prints is off until it is asked for."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Final

from otel_perf.core.records import record
from otel_perf.core.settings import Duration, Parsed, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS: Final = ("json", "text")
FIELDS: Final = ("otel", "ecs")
REDACT: Final = ("on", "keys", "off")
LEAST_LINE: Final = 4096  # bytes in which every name of a line still has room


def one_of(*allowed: str) -> Parsed:
    """One of these words."""

    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in allowed:
            raise ValueError("is not known")
        return word

    return Parsed(parse, " or ".join(allowed) if len(allowed) == 2 else ", ".join(allowed))


def _checked(parse: str) -> Callable[[object], str]:
    """Text that ``rules.<parse>`` can read."""

    def check(value: object) -> str:
        from otel_perf.logs import rules

        getattr(rules, parse)(str(value))
        return str(value).strip()

    return check


def _seconds(value: object) -> Any:
    from otel_perf.logs import rules

    return rules.fold(value)


@record
class LogsSettings:
    """What lines look like, what is hidden in them, what is made beside them, and how the audit trail is kept."""

    format: Annotated[str, one_of(*FORMATS)] = field(
        default="",
        metadata={
            "doc": "Lines of the app's stream and file handlers, whatever formatter it sets: `json` (`otel-perf schema"
            " log`) or `text` with the ids; without it they stay as they are."
        },
    )
    fields: Annotated[str, one_of(*FIELDS)] = field(
        default="otel",
        metadata={"doc": "Names of the fields of a JSON line: OpenTelemetry's or the Elastic Common Schema's."},
    )
    line: Annotated[int, Parsed(parse_size, "4 KiB or more, like 65536 or 64KiB", LEAST_LINE)] = field(
        default=65_536,
        metadata={"doc": "A line in our format that would be longer is cut to this and says so (bytes of UTF-8)."},
    )
    redact: Annotated[str, one_of(*REDACT)] = field(
        default="on",
        metadata={
            "doc": "Secrets hidden in exported records and in lines in our format: by the name of their field and by"
            " what they look like (`on`), by name only (`keys`), or not (`off`)."
        },
    )
    redact_keys: str = field(
        default="",
        metadata={"doc": "More names of fields to hide, separated by commas; `iban` also is `customer_iban`."},
    )
    redact_patterns: str = field(
        default="",
        metadata={"doc": "More regular expressions to hide what they match, separated by `;`."},
    )
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
    levels: Annotated[
        str, Parsed(_checked("levels"), "logger=LEVEL,… like uvicorn.access=WARNING,shop.*=INFO, or off")
    ] = field(
        default="", metadata={"doc": "The least level of loggers, and of those beneath them; what is less is dropped."}
    )
    rate: Annotated[str, Parsed(_checked("rate"), "a number of lines for a time, like 100/s or 5/min, or off")] = field(
        default="", metadata={"doc": "Most lines of one template, errors and audit records aside; the rest is dropped."}
    )
    fold: Annotated[float, Parsed(_seconds, "a number with ms, s, m or h, like 10s, or off", 0.0, 86_400.0)] = field(
        default=0.0,
        metadata={
            "doc": "For how long a line stands for others like it, which are then one line with their number (s)."
        },
    )
    sample: Annotated[str, Parsed(_checked("sample"), "LEVEL=share,… like INFO=10%,DEBUG=1%, or off")] = field(
        default="", metadata={"doc": "Share of the traces whose lines of a level are kept, by the trace's id."}
    )


ADJUSTABLE = ("levels", "rate", "fold", "sample")
"""Fields that a flag may change while the program runs: ``perf.logs.levels`` and so on."""
