"""OTLP over gRPC: the stored bytes through a generic unary call of grpcio (extra ``grpc``)."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from otel_perf.core.errors import MissingExtraError
from otel_perf.store.sender import LONGEST_WAIT, Answer, no_rest, partial_success, user_agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.store.destination import Destination

METHODS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
# https://opentelemetry.io/docs/specs/otlp/#failures: what may go through later
BUSY: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED"}
)
MISCONFIGURED: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"})
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"


class GrpcSender:
    """Calls one service over one channel."""

    def __init__(self, destination: Destination) -> None:
        try:
            self._grpc = _quiet_grpc()
        except ImportError:
            raise MissingExtraError(f"{destination.place} over gRPC", "grpc") from None
        self._destination = destination
        # gRPC wants bytes where a name ends like that.
        self._metadata = tuple(
            (name, value.encode("latin-1") if name.endswith("-bin") else value)
            for name, value in destination.headers.items()
        )
        self._channel: Any = None
        self._call: Any = None

    def pack(self, body: bytes, rest: Callable[[], None] = no_rest) -> bytes:
        """As it is: grpcio compresses it, in one go."""
        return body

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Call with ``payload``."""
        try:
            if self._call is None:
                self._channel = self._open()
                # No serializers: what is stored is what goes out.
                self._call = self._channel.unary_unary(METHODS[self._destination.signal])
            answer = self._call(payload, timeout=timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            return self._redacted(_judge(error))
        except (OSError, ValueError) as error:
            return Answer("misconfigured", str(error))
        rejected, message = partial_success(self._destination.signal, answer) if answer else (0, "")
        return self._redacted(Answer("accepted", "OK", rejected=rejected, message=message))

    def _redacted(self, answer: Answer) -> Answer:
        hidden = self._destination.redacted
        return replace(answer, detail=hidden(answer.detail), message=hidden(answer.message))

    def close(self) -> None:
        """Close the channel."""
        channel, self._channel, self._call = self._channel, None, None
        if channel is not None:
            channel.close()

    def _open(self) -> Any:
        grpc, destination = self._grpc, self._destination
        parts = urlsplit(destination.url)
        target = parts.netloc.rpartition("@")[2]
        options = [("grpc.primary_user_agent", user_agent()), ("grpc.max_receive_message_length", 65_536)]
        compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(destination.compression)
        if parts.scheme == "http":
            return grpc.insecure_channel(target, options=options, compression=compression)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_content(destination.certificate),  # None: those that grpcio finds
            private_key=_content(destination.client_key),
            certificate_chain=_content(destination.client_certificate),
        )
        if parts.port is None:
            target = f"{target}:443"
        return grpc.secure_channel(target, credentials, options=options, compression=compression)


def _quiet_grpc() -> Any:
    """The module; its C core, unless the app has loaded it, then does not tell stderr what we tell in one line."""
    name = "GRPC_VERBOSITY"
    quiet = "grpc" not in sys.modules and name not in os.environ
    if quiet:
        os.environ[name] = "NONE"
    try:
        import grpc

        grpc.insecure_channel("127.0.0.1:9").close()  # the core reads it with its first channel
    finally:
        if quiet:
            del os.environ[name]  # it is none of the app's children's
    return grpc


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _judge(error: Any) -> Answer:
    """What a failed call means for the request."""
    name = error.code().name
    detail = f"{name}: {error.details()}"[:300]
    if "ssl" in detail.lower() or "certificate" in detail.lower():
        return Answer("misconfigured", detail)
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in detail:
        return Answer("too large", detail)
    if name in BUSY:
        return Answer("busy", detail, retry_after=_retry_after(error))
    return Answer("misconfigured" if name in MISCONFIGURED else "refused", detail)


def _retry_after(error: Any) -> float | None:
    """Seconds that the receiver asks for, in a ``google.rpc.RetryInfo`` of the trailing metadata."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            from google.rpc.error_details_pb2 import RetryInfo
            from google.rpc.status_pb2 import Status

            for detail in Status.FromString(value).details:
                if detail.type_url == _RETRY_INFO:
                    delay = RetryInfo.FromString(detail.value).retry_delay
                    return float(min(delay.seconds + delay.nanos / 1e9, LONGEST_WAIT))
        except Exception:  # somebody else's bytes
            return None
    return None
