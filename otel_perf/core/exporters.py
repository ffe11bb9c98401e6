"""Which exporters ``OTEL_{TRACES,METRICS,LOGS}_EXPORTER`` name, in upstream's meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNALS: Final = ("traces", "metrics", "logs")
# These go through the store; which protocol they name matters to the drain that sends from there.
OTLP: Final = frozenset({"otlp", "otlp_proto_grpc", "otlp_proto_http"})


def exporter_names(environ: Mapping[str, str], signal: str) -> list[str]:
    """The exporters of ``signal``: ``otlp`` if nothing is set, as with upstream's distribution; none for ``none``."""
    raw = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() or "otlp"
    if raw.lower() == "none":
        return []
    return [name for name in (part.strip() for part in raw.split(",")) if name]


def names_endpoint(environ: Mapping[str, str]) -> bool:
    """Whether an OTLP endpoint is named, for all signals or for one."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", *(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" for signal in SIGNALS))
    return any(environ.get(name, "").strip() for name in names)
