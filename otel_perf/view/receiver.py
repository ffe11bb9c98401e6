"""Takes OTLP over HTTP from any program, in any language, into a store of its own.

Protobuf and JSON, plain or gzip, on the paths that every OpenTelemetry SDK sends to. What comes is checked and stored
as batches like those of our own programs, so that the page, the report and all other commands read it. See
https://opentelemetry.io/docs/specs/otlp/#otlphttp for what is answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.core.home import STORE_FILE, make_private
from otel_perf.store.database import Database, NewBatch
from otel_perf.view.guard import answer

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from otel_perf.view.guard import Receive, Send

FOLDER: Final = "received"  # in the home folder
BODY: Final = 16 * 2**20  # bytes that a request may have as it comes
PLAIN: Final = {"application/x-protobuf": 32 * 2**20, "application/json": 8 * 2**20}  # and once it is unpacked
AT_ONCE: Final = 4  # requests whose bodies are in memory; others wait
_ZIPPED: Final = 16 + zlib.MAX_WBITS  # gzip
_IDS: Final = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
_SIGNALS: Final[dict[str, tuple[str, Any, tuple[str, str, str]]]] = {
    "/v1/traces": ("traces", ExportTraceServiceRequest, ("resource_spans", "scope_spans", "spans")),
    "/v1/metrics": ("metrics", ExportMetricsServiceRequest, ("resource_metrics", "scope_metrics", "metrics")),
    "/v1/logs": ("logs", ExportLogsServiceRequest, ("resource_logs", "scope_logs", "log_records")),
}


class RefusedError(Exception):
    """A request that cannot be taken: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Receiver:
    """An ASGI application. ``home`` gets the store."""

    def __init__(self, home: Path, *, limit: int) -> None:
        self.home = home
        self._limit = limit
        self._database: Database | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="otel-perf-receive")  # the one writer
        self._room = asyncio.Semaphore(AT_ONCE)
        self.items = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Take one request."""
        signal = _SIGNALS.get(scope["path"])
        if signal is None:
            await answer(send, 404, f"OTLP goes to {', '.join(_SIGNALS)}")
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if media not in PLAIN:
                raise RefusedError(415, f"content type {media!r}; send application/x-protobuf or application/json")
            async with self._room:
                body = await _body(headers, receive)
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._take, signal, media, headers, body)
        except RefusedError as error:
            await answer(send, error.status, str(error), [(b"retry-after", b"5")] if error.status == 503 else ())
            return
        await answer(send, 200, "{}" if media == "application/json" else "", media=media.encode())

    def _take(self, signal: tuple[str, Any, Any], media: str, headers: dict[str, str], body: bytes) -> None:
        """Unpack, check and store; in the one thread."""
        plain = _unpacked(headers.get("content-encoding", "identity").strip().lower(), body, PLAIN[media])
        name, kind, parts = signal
        try:
            request = _of_json(kind, plain) if media == "application/json" else kind.FromString(plain)
            of_resource, of_scope, of_items = parts
            items = sum(
                len(getattr(scope, of_items)) for resource in getattr(request, of_resource)
                for scope in getattr(resource, of_scope)
            )  # fmt: skip
        except (DecodeError, ParseError, ValueError, RecursionError, AttributeError, TypeError) as error:
            raise RefusedError(400, f"this is no OTLP: {str(error)[:200]}") from error
        if not items:
            return
        try:
            if self._database is None or not self._database.is_current():
                make_private(self.home)
                # "Delivered": nobody is to send it on.
                self._database = Database(self.home / STORE_FILE, limit=self._limit, delivered=True)
            self._database.append([NewBatch(name, items, request.SerializeToString())], time.time_ns())
        except (sqlite3.Error, OSError) as error:
            raise RefusedError(503, f"the store cannot be written now: {error}") from error
        self.items += items

    def close(self) -> None:
        """Close the store."""
        self._thread.shutdown(wait=True)
        if self._database is not None:
            self._database.close()


async def _body(headers: dict[str, str], receive: Receive) -> bytes:
    """The body as it comes, and no more of it than may be."""
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > BODY:
        raise RefusedError(413, f"at most {BODY} bytes a request")
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "the request was not finished")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > BODY:
            raise RefusedError(413, f"at most {BODY} bytes a request")
        if not message.get("more_body"):
            return b"".join(pieces)


def _unpacked(encoding: str, body: bytes, most: int) -> bytes:
    """The plain body. Never more than ``most`` bytes of it are made: a small one may unpack to gigabytes."""
    if encoding in {"", "identity"}:
        plain = body
    elif encoding == "gzip":
        unpacker = zlib.decompressobj(_ZIPPED)
        try:
            plain = unpacker.decompress(body, most + 1)
        except zlib.error as error:
            raise RefusedError(400, f"this is no gzip: {error}") from error
        if not unpacker.eof and len(plain) <= most:
            raise RefusedError(400, "the gzip is not whole")
    else:
        raise RefusedError(415, f"content encoding {encoding!r}; send gzip, or none")
    if len(plain) > most:
        raise RefusedError(413, f"at most {most} bytes once it is unpacked")
    return plain


def _of_json(kind: Any, body: bytes) -> Any:
    """A request of OTLP's JSON, which has ids in hex where protobuf's own has base64."""
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  of what was sent
    ahead: list[Any] = [document]
    while ahead:
        node = ahead.pop()
        if isinstance(node, list):
            ahead += node
            continue
        if not isinstance(node, dict):
            continue
        for key, value in node.items():
            length = _IDS.get(key)
            if length is not None and isinstance(value, str):
                found = bytes.fromhex(value)
                if len(found) not in {0, length}:
                    raise ValueError(f"{key} has {len(found)} bytes; it must have {length}")
                node[key] = base64.b64encode(found).decode()
            elif isinstance(value, dict | list):
                ahead.append(value)
    return ParseDict(document, kind(), ignore_unknown_fields=True)
