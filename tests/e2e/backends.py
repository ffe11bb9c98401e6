"""What stands for Tempo and Loki, which run only as images: they take OTLP, keep it, and turn the first request away."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

# gRPC reads this when it is imported. With its handlers, 3 of 100 children that were forked beside a server were aborted
# before they became the program that they should be; what is started from here has no use for them.
with pytest.MonkeyPatch.context() as _patch:
    _patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "false")
    import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)  # fmt: skip
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)  # fmt: skip

from tests.e2e.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Backends:
    """Their addresses, and the spans and log records that came, as flat dictionaries."""

    def __init__(self) -> None:
        self.tempo_port, self.loki_port = free_port(), free_port()
        self.tempo, self.loki = f"127.0.0.1:{self.tempo_port}", f"http://127.0.0.1:{self.loki_port}/otlp"
        self._traces: list[ExportTraceServiceRequest] = []
        self._logs: list[ExportLogsServiceRequest] = []
        self._lock = threading.Lock()
        self._refused = {"tempo": False, "loki": False}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both of them."""
        http = ThreadingHTTPServer(("127.0.0.1", self.loki_port), self._handler())
        thread = threading.Thread(target=http.serve_forever, name="loki", daemon=True)
        thread.start()
        server = grpc.server(ThreadPoolExecutor(4))
        add_TraceServiceServicer_to_server(_Traces(self), server)
        server.add_insecure_port(self.tempo)
        server.start()
        try:
            yield
        finally:
            server.stop(0).wait()
            http.shutdown()
            http.server_close()
            thread.join()

    def refuses(self, name: str) -> bool:
        """Whether this request is the first one, which is turned away for good."""
        with self._lock:
            first, self._refused[name] = not self._refused[name], True
        return first

    def take(self, request: Any) -> None:
        """Keep what came."""
        with self._lock:
            (self._traces if isinstance(request, ExportTraceServiceRequest) else self._logs).append(request)

    def spans(self) -> list[dict[str, Any]]:
        """Each span's attributes as ``span.…`` and ``resource.…``, and its intrinsics, as TraceQL names them."""
        found = []
        for request in list(self._traces):
            for resource in request.resource_spans:
                of_resource = {f"resource.{key}": value for key, value in _values(resource.resource.attributes)}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        own = {f"span.{key}": value for key, value in _values(span.attributes)}
                        status = ("unset", "ok", "error")[span.status.code]
                        kind = ("unspecified", "internal", "server", "client", "producer", "consumer")[span.kind]
                        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                        named = {"name": span.name, "status": status, "kind": kind, "duration": seconds}
                        found.append(of_resource | own | named | {f"span:{key}": at for key, at in named.items()})
        return found

    def records(self) -> list[dict[str, str]]:
        """Each log record's labels and structured metadata, as Loki names them; ``line`` is its body.

        Loki 3.7 does not keep the name of an event (loki#21172).
        """
        found = []
        for request in list(self._logs):
            for resource in request.resource_logs:
                of_resource = dict(_values(resource.resource.attributes))
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        all_of_it = of_resource | dict(_values(record.attributes))
                        named = {
                            key.replace(".", "_").replace("-", "_"): str(value) for key, value in all_of_it.items()
                        }
                        named |= {"severity_number": str(record.severity_number), "line": record.body.string_value}
                        if record.trace_id:
                            named |= {"trace_id": record.trace_id.hex(), "span_id": record.span_id.hex()}
                        found.append(named)
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backends = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if backends.refuses("loki"):
                    self.send_response(400)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                backends.take(ExportLogsServiceRequest.FromString(body))
                answer = ExportLogsServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


class _Traces(TraceServiceServicer):
    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        if self._backends.refuses("tempo"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first one")
        self._backends.take(request)
        return ExportTraceServiceResponse()


def _values(attributes: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind) if kind else None
        if kind == "array_value":
            value = [getattr(each, each.WhichOneof("value")) for each in value.values]
        yield attribute.key, value
