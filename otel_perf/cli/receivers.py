"""Where stored telemetry goes from here, and whether somebody takes it there now: a part of ``otel-perf doctor``."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from otel_perf.cli import surroundings
from otel_perf.cli.diagnosis import Finding, Sending
from otel_perf.core.errors import OtelPerfError
from otel_perf.core.exporters import OTLP, SIGNALS, exporter_names, names_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_perf.store.destination import Destination

_PATIENCE: Final = 10.0  # seconds that a receiver has to answer here, as many as a program waits unless it is told else
_GRACE: Final = 1.0  # seconds more, after which no answer is waited for: a name is looked up without a bound
_HEADERS: Final = "set OTEL_EXPORTER_OTLP_HEADERS to what the receiver wants, like api-key=…"
_CLIENT: Final = "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: the receiver wants both"
_ISSUE: Final = "its receiver's certificate has to be issued again, "
_TIME: Final = "or set the clock, if it is that of this machine that is wrong: timedatectl set-ntp true"
_LATER: Final = (
    "nothing to change here: what is stored is sent once it is taken again; if it stays so, look at the receiver's"
    " log, its limits and its quota"
)
_NAMES: Final = "correct OTEL_EXPORTER_OTLP_HEADERS: names have letters, digits, - _ and ., values over gRPC ASCII"
_NO_PEM: Final = "set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of certificates in PEM: what it names is none"
_SLOW: Final = (
    "look whether the address is right and the way to it open (a firewall answers nothing); where the receiver is only"
    " slow, raise OTEL_EXPORTER_OTLP_TIMEOUT"
)
# What an answer contains (a status: begins with), and what mends it; the first that fits.
_REMEDIES: Final = {
    "401": _HEADERS,
    "403": _HEADERS,
    "UNAUTHENTICATED": _HEADERS,
    "PERMISSION_DENIED": _HEADERS,
    "407": "set the proxy's user and password in its variable, like HTTPS_PROXY=http://user:password@proxy:3128",
    "Tunnel connection failed: 407": "set the proxy's user and password in HTTPS_PROXY=http://user:password@proxy:3128",
    "413": "raise the limit for a request at the receiver, or at the proxy before it: not even one span gets through",
    "429": _LATER,
    "RESOURCE_EXHAUSTED": _LATER,
    "500": "look at the receiver's log: it failed on a request that is right",
    "502": _LATER,
    "503": _LATER,
    "504": _LATER,
    "30": "write the address that it moved to in OTEL_EXPORTER_OTLP_ENDPOINT: nothing goes on to another by itself",
    "404": "correct the path: OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces and so on appended, a signal's own does not",
    "needs an extra": "pip install 'otel-perf[grpc]', or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "certificate has expired": f"{_ISSUE}{_TIME}",
    "certificate is not yet valid": f"{_ISSUE}{_TIME}",
    "certificate is not valid for": f"{_ISSUE}for the name that the endpoint has; or write a name that it is for there",
    "not in peer certificate": f"{_ISSUE}for the name that the endpoint has; or write a name that it is for there",
    "VERIFY_FAILED": "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the authority that signed its certificate",
    "KEY_VALUES_MISMATCH": "set OTEL_EXPORTER_OTLP_CLIENT_KEY to the key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "PEM lib": "set OTEL_EXPORTER_OTLP_CLIENT_KEY: the file of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE has no key",
    "NO_CERTIFICATE_OR_CRL_FOUND": _NO_PEM,
    "security handshaker": _NO_PEM,
    "timed out": _SLOW,
    "DEADLINE_EXCEEDED": _SLOW,
    "to the end within": _SLOW,
    "certificate required": _CLIENT,
    "CERTIFICATE_REQUIRED": _CLIENT,
    "WRONG_VERSION_NUMBER": "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT: what listens there speaks no TLS",
    "missing selected ALPN": "that is a port for HTTP: use 4317, or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "Invalid metadata": _NAMES,
    "Invalid header name": _NAMES,
    "http1.x server": "that is a port for HTTP: use 4317, or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "no OTLP receiver": "correct OTEL_EXPORTER_OTLP_ENDPOINT: something else answers there",
    "did not take 1": "correct what it says of the span, at the receiver: it answers, and throws away what it is sent",
    "no OTLP response": "correct OTEL_EXPORTER_OTLP_ENDPOINT: something else answers there",
    "HTTP request to an HTTPS server": "write https:// in OTEL_EXPORTER_OTLP_ENDPOINT: what listens there speaks TLS",
}


def sendings(environ: Mapping[str, str], findings: list[Finding], hints: list[Finding]) -> list[Sending]:
    """Each signal's receiver and its answer: to a test span, and to empty requests of the other signals."""
    if surroundings.declared(environ, findings):
        return []
    found = _destinations(environ, findings)
    _without_effect(environ, found, hints)
    tried = _tried(found)
    troubles: dict[str, list[Sending]] = {}
    proxies: dict[str, str] = {}
    for destination, sending in zip(found, tried, strict=True):
        proxies[sending.answer] = proxies.get(sending.answer) or _past_the_proxy(destination)
        if not sending.taken or "no OTLP response" in sending.answer:
            troubles.setdefault(sending.answer, []).append(sending)
    for answer, failed in troubles.items():
        usual = "start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
        if "reset" in answer.lower() and any(sending.protocol != "grpc" for sending in failed):
            usual += "; if that is a port for gRPC: export OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use 4318"
        remedy = next((remedy for part, remedy in _REMEDIES.items() if _fits(part, answer)), usual)
        places = list(dict.fromkeys(sending.place for sending in failed))
        problem = f"{', '.join(places)} {'do' if len(places) > 1 else 'does'} not take what is sent: {answer}"
        findings.append(Finding(problem=problem, remedy=f"{remedy}{proxies[answer]}"))
    return tried


def _destinations(environ: Mapping[str, str], findings: list[Finding]) -> list[Destination]:
    """Where the signals that go through the store are sent, and what is wrong with the variables that say so."""
    from otel_perf.store.destination import resolve
    from otel_perf.store.local import LocalReceiver

    def say(line: str) -> None:
        finding = Finding(problem=line, remedy="correct it: https://opentelemetry.io/docs/specs/otel/protocol/exporter")
        if finding not in findings:  # three signals have mostly the same settings
            findings.append(finding)

    through_store = [signal for signal in SIGNALS if not OTLP.isdisjoint(exporter_names(environ, signal))]
    # Also where no endpoint is named: what is wrong is wrong whether or not somebody answers on this machine.
    resolved = [resolve(environ, signal, say, local=True) for signal in through_store]
    if names_endpoint(environ) or not through_store:
        return [destination for destination in resolved if destination is not None]
    receiver = LocalReceiver(environ, lambda _url: None)
    try:
        receiver.find()
    except OtelPerfError as error:  # something answers, and what would speak to it is missing
        findings.append(Finding(problem=str(error), remedy=_REMEDIES["needs an extra"]))
    return [destination for destination in receiver.destinations if destination.signal in through_store]


def _past_the_proxy(destination: Destination) -> str:
    """How to go around a proxy, of which the answer may be: it is set for the whole machine, and easily forgotten."""
    from otel_perf.store.http_sender import proxy_for

    proxy = proxy_for(destination) if destination.protocol != "grpc" else None
    if proxy is None:
        return ""
    host = urlsplit(destination.url).hostname
    return f"; it is sent through the proxy {proxy.rpartition('@')[2]}, which NO_PROXY={host} leaves out"


def _tried(found: list[Destination]) -> list[Sending]:
    """Their answers. All are asked at once, and one that never ends to answer is not waited for."""
    answers: dict[int, Sending] = {}

    def ask(place: int, destination: Destination) -> None:
        answers[place] = _try(destination)

    asking = [threading.Thread(target=ask, args=each, daemon=True) for each in enumerate(found)]
    for thread in asking:
        thread.start()
    ends = time.monotonic() + _PATIENCE + _GRACE
    for thread in asking:
        thread.join(max(0.0, ends - time.monotonic()))
    return [
        answers.get(place)
        or Sending(
            signal=destination.signal, place=destination.place, protocol=destination.protocol, taken=False,
            answer=f"no answer to the end within {_PATIENCE:g} s",
        )
        for place, destination in enumerate(found)
    ]  # fmt: skip


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
        detail, taken = answer.detail, answer.verdict == "accepted" and not answer.rejected
        if answer.rejected:  # with a 200, and it is lost all the same
            detail = f"{detail}, but it did not take {answer.rejected}"
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
