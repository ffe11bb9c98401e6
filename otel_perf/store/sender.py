"""Posts one serialized OTLP request and says in one of four words what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.store.destination import Destination

Verdict = Literal["accepted", "busy", "refused", "too large", "misconfigured"]
LONGEST_WAIT: Final = 300.0  # seconds of a Retry-After that are believed


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said, or why it said nothing.

    ``busy``: the same may go through later (no connection, 429, 503). ``refused``: this request is at fault, or all
    are. ``too large``: this one is. ``misconfigured``: no request would go through before somebody changes a setting
    (401, 404, a certificate).
    """

    verdict: Verdict
    detail: str = ""
    retry_after: float | None = None  # seconds
    rejected: int = 0  # items of an accepted request that the receiver did not take
    message: str = ""  # its explanation or warning
    date: str = ""  # what time it was there, where HTTP says so


def no_rest() -> None:
    """Go on at once."""


class Sender(Protocol):
    """A kept connection to one destination. Used by one thread; never after a fork."""

    def pack(self, body: bytes, rest: Callable[[], None] = no_rest) -> bytes:
        """``body`` as it is posted; ``rest`` is called each time that it was computed for about a millisecond."""
        ...

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Post what :meth:`pack` gave, waiting at most about ``timeout`` seconds. Never raises."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def connect(destination: Destination) -> Sender:
    """A sender for ``destination``. Connects when it sends. Raises ``MissingExtraError`` without grpcio."""
    if destination.protocol == "grpc":
        from otel_perf.store.grpc_sender import GrpcSender

        return GrpcSender(destination)
    if destination.credential_provider:
        from otel_perf.store.session_sender import SessionSender

        return SessionSender(destination)
    from otel_perf.store.http_sender import HttpSender

    return HttpSender(destination)


def user_agent() -> str:
    """As the protocol asks: the exporter's name first."""
    return (
        f"OTel-OTLP-Exporter-Python/{metadata.version('opentelemetry-sdk')} otel-perf/{metadata.version('otel-perf')}"
    )


def partial_success(signal: str, body: bytes) -> tuple[int, str]:
    """How many items of an accepted request the receiver rejected, and what it says about them.

    A body that is no OTLP response (some receivers send JSON or text with a 200) rejects nothing.
    """
    from google.protobuf.message import DecodeError

    try:
        if signal == "traces":
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

            spans = ExportTraceServiceResponse.FromString(body).partial_success
            return spans.rejected_spans, spans.error_message
        if signal == "metrics":
            from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

            points = ExportMetricsServiceResponse.FromString(body).partial_success
            return points.rejected_data_points, points.error_message
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        records = ExportLogsServiceResponse.FromString(body).partial_success
        return records.rejected_log_records, records.error_message
    except DecodeError:
        return 0, ""
