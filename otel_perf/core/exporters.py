"""Which exporters ``OTEL_{TRACES,METRICS,LOGS}_EXPORTER`` name, in upstream's meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNALS: Final = ("traces", "metrics", "logs")
# These go through the store; which protocol they name matters to the drain that sends from there.
OTLP: Final = frozenset({"otlp", "otlp_proto_grpc", "otlp_proto_http"})


def endpoints(environ: Mapping[str, str]) -> list[str]:
    """The variables that name a place to send to."""
    general = [f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", *(f"{name.upper()}_" for name in SIGNALS))]
    return [name for name in general if environ.get(name, "").strip()]


def exporter_names(environ: Mapping[str, str], signal: str) -> list[str]:
    """The exporters of ``signal``: ``otlp`` if nothing is set, as with upstream's distribution; none for ``none``."""
    raw = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() or "otlp"
    if raw.lower() == "none":
        return []
    return [name for name in (part.strip() for part in raw.split(",")) if name]
