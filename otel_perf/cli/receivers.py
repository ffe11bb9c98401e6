"""Where stored telemetry goes from here, and whether somebody takes it there now: a part of ``otel-perf doctor``."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from otel_perf.cli.diagnosis import Finding, Sending
from otel_perf.core.errors import OtelPerfError
from otel_perf.core.exporters import OTLP, SIGNALS, exporter_names, names_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_perf.store.destination import Destination

_PATIENCE: Final = 3.0  # seconds that a receiver has to answer here
_HEADERS: Final = "set OTEL_EXPORTER_OTLP_HEADERS to what the receiver wants, like api-key=…"
_CLIENT: Final = "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: the receiver wants both"
# What an answer contains (a status: begins with), and what mends it; the first that fits.
_REMEDIES: Final = {
    "401": _HEADERS,
    "403": _HEADERS,
    "UNAUTHENTICATED": _HEADERS,
    "PERMISSION_DENIED": _HEADERS,
    "404": "correct the path: OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces and so on appended, a signal's own does not",
    "needs an extra": "pip install 'otel-perf[grpc]', or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "VERIFY_FAILED": "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the authority that signed its certificate",
    "certificate required": _CLIENT,
    "CERTIFICATE_REQUIRED": _CLIENT,
    "WRONG_VERSION_NUMBER": "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT: what listens there speaks no TLS",
    "http1.x server": "that is a port for HTTP: use 4317, or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "no OTLP response": "correct OTEL_EXPORTER_OTLP_ENDPOINT: something else answers there",
    "HTTP request to an HTTPS server": "write https:// in OTEL_EXPORTER_OTLP_ENDPOINT: what listens there speaks TLS",
}


def sendings(environ: Mapping[str, str], findings: list[Finding], hints: list[Finding]) -> list[Sending]:
    """Each signal's receiver and its answer: to a test span, and to empty requests of the other signals."""
    from otel_perf.store.destination import resolve
    from otel_perf.store.local import LocalReceiver

    def say(line: str) -> None:
        finding = Finding(problem=line, remedy="correct it: https://opentelemetry.io/docs/specs/otel/protocol/exporter")
        if finding not in findings:  # three signals have mostly the same settings
            findings.append(finding)

    through_store = [signal for signal in SIGNALS if not OTLP.isdisjoint(exporter_names(environ, signal))]
    if environ.get("OTEL_CONFIG_FILE") or not through_store:
        return []
    if not names_endpoint(environ):
        receiver = LocalReceiver(environ, lambda _url: None)
        if not receiver.find():
            return []
        found = [destination for destination in receiver.destinations if destination.signal in through_store]
    else:
        resolved = [resolve(environ, signal, say) for signal in through_store]
        found = [destination for destination in resolved if destination is not None]
    _without_effect(environ, found, hints)
    tried = [_try(destination) for destination in found]
    troubles: dict[str, list[Sending]] = {}
    for sending in tried:
        if not sending.taken or "no OTLP response" in sending.answer:
            troubles.setdefault(sending.answer, []).append(sending)
    for answer, failed in troubles.items():
        usual = "start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
        if "reset" in answer.lower() and any(sending.protocol != "grpc" for sending in failed):
            usual += "; if that is a port for gRPC: export OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use 4318"
        remedy = next((remedy for part, remedy in _REMEDIES.items() if _fits(part, answer)), usual)
        places = list(dict.fromkeys(sending.place for sending in failed))
        problem = f"{', '.join(places)} {'do' if len(places) > 1 else 'does'} not take what is sent: {answer}"
        findings.append(Finding(problem=problem, remedy=remedy))
    return tried


def _without_effect(environ: Mapping[str, str], found: list[Destination], hints: list[Finding]) -> None:
    """Certificates and keys for what is not encrypted: neither upstream's exporters nor ours use them there."""
    from otel_perf.store.destination import files

    places: dict[str, list[str]] = {}
    for destination in found:
        if urlsplit(destination.url).scheme == "http":
            places.setdefault(" ".join(files(environ, destination.signal)), []).append(destination.place)
    for names, plain in places.items():
        if names:
            hints.append(
                Finding(
                    problem=f"{' and '.join(names.split())}: without effect, {', '.join(plain)} is not encrypted",
                    remedy=f"write https:// in OTEL_EXPORTER_OTLP_ENDPOINT, or unset {names}",
                )
            )


def _fits(part: str, answer: str) -> bool:
    return answer.startswith(part) if part.isdigit() else part in answer


def _try(destination: Destination) -> Sending:
    from otel_perf.store.sender import connect

    ahead = None
    try:
        sender = connect(destination)
        try:
            trace_id, body = _test_span() if destination.signal == "traces" else ("", b"")
            payload, before = sender.pack(body) if body else b"", time.time()
            answer = sender.send(payload, min(destination.timeout, _PATIENCE))
            ahead = _ahead(answer.date, before)
        finally:
            sender.close()
        detail, taken = answer.detail, answer.verdict == "accepted"
        detail = f"{detail}; {answer.message}" if answer.message else detail
    except OtelPerfError as error:
        detail, taken, trace_id = str(error), False, ""
    if trace_id and taken:
        detail = f"{detail}; test span in trace {trace_id}"
    return Sending(
        signal=destination.signal, place=destination.place, protocol=destination.protocol, answer=detail, taken=taken,
        ahead=ahead,
    )  # fmt: skip


def _ahead(date: str, before: float) -> float | None:
    """Seconds that this machine's clock is ahead of the one that wrote ``date``, a time in whole ones."""
    from email.utils import parsedate_to_datetime

    with contextlib.suppress(TypeError, ValueError):
        return (before + time.time()) / 2 - parsedate_to_datetime(date).timestamp() - 0.5
    return None


def _test_span() -> tuple[str, bytes]:
    """A trace of one span that says what it is, and its id."""
    import os

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "otel-perf doctor"
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "otel_perf"
    span = of_scope.spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="otel-perf doctor: test", kind=1)
    span.start_time_unix_nano = time.time_ns()
    span.end_time_unix_nano = span.start_time_unix_nano + 1
    return span.trace_id.hex(), request.SerializeToString()
