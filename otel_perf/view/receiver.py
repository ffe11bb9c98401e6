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
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.core.errors import StoreError
from otel_perf.core.home import STORE_FILE, make_private
from otel_perf.store.database import Database, NewBatch, identity_of, is_corrupt, set_aside
from otel_perf.view.guard import answer
from otel_perf.view.wire import Cutter, TooMuchError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from otel_perf.view.guard import Receive, Send

FOLDER: Final = "received"  # in the home folder
BODY: Final = 16 * 2**20  # bytes that a request may have as it comes
PLAIN: Final = {"application/x-protobuf": 16 * 2**20, "application/json": 8 * 2**20}  # and once it is unpacked
HELD: Final = 3 * BODY  # bytes of all bodies that are in memory
NODES: Final = 200_000  # objects and lists of a JSON body: each takes many times its bytes in memory
_ZIPPED: Final = 16 + zlib.MAX_WBITS  # gzip
_IDS: Final = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
_SIGNALS: Final[dict[str, tuple[str, Any]]] = {
    "/v1/traces": ("traces", ExportTraceServiceRequest),
    "/v1/metrics": ("metrics", ExportMetricsServiceRequest),
    "/v1/logs": ("logs", ExportLogsServiceRequest),
}


class RefusedError(Exception):
    """A request that cannot be taken: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Coming:
    """A body that is coming in, and the bytes of it that are here."""

    def __init__(self, ends: asyncio.Timeout) -> None:
        self.size = 0
        self.is_whole = False
        self._ends = ends

    def give_up(self) -> None:
        """Have its request refused; what is here of it is let go."""
        self.size = 0
        self._ends.reschedule(asyncio.get_running_loop().time())


class Receiver:
    """An ASGI application. ``home`` gets the store."""

    def __init__(self, home: Path, *, limit: int) -> None:
        self.home = home
        self._limit = limit
        self._database: Database | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="otel-perf-receive")  # the one writer
        self._bodies: dict[_Coming, None] = {}  # those that are in memory, the one that began first first
        self._held = 0  # their bytes
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
            await self._one(signal, media, headers, receive)
        except RefusedError as error:
            await answer(send, error.status, str(error), [(b"retry-after", b"5")] if error.status == 503 else ())
            return
        await answer(send, 200, "{}" if media == "application/json" else "", media=media.encode())

    async def _one(self, signal: tuple[str, Any], media: str, headers: dict[str, str], receive: Receive) -> None:
        """Read a body and store it. It counts as held until it is stored."""
        ends = asyncio.timeout(None)
        coming = _Coming(ends)
        self._bodies[coming] = None
        try:
            async with ends:
                body = await self._body(headers, receive, coming)
            coming.is_whole = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._take, signal, media, headers, body)
        except TimeoutError as error:
            raise RefusedError(503, "too much is coming in at once, and this came the slowest") from error
        finally:
            del self._bodies[coming]
            self._held -= coming.size

    async def _body(self, headers: dict[str, str], receive: Receive, coming: _Coming) -> bytes:
        """The body as it comes, and no more of it than may be."""
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY:
            raise RefusedError(413, f"at most {BODY} bytes a request")
        pieces = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedError(400, "the request was not finished")
            piece = message.get("body", b"")
            pieces.append(piece)
            coming.size += len(piece)
            self._held += len(piece)
            if coming.size > BODY:
                raise RefusedError(413, f"at most {BODY} bytes a request")
            if not message.get("more_body"):
                return b"".join(pieces)
            if self._held > HELD:
                self._make_room(coming)

    def _make_room(self, newest: _Coming) -> None:
        """Refuse the body that has been coming for the longest: whoever sends quickly is never kept out by the slow."""
        slowest = next((one for one in self._bodies if one.size and not one.is_whole), newest)
        self._held -= slowest.size
        slowest.give_up()

    def _take(self, signal: tuple[str, Any], media: str, headers: dict[str, str], body: bytes) -> None:
        """Unpack, check and store; in the one thread."""
        plain = _unpacked(headers.get("content-encoding", "identity").strip().lower(), body, PLAIN[media])
        name, kind = signal
        try:
            if media == "application/json":
                plain = _of_json(kind, plain).SerializeToString()
            batches = Cutter(kind).cut(plain)
            for _, batch in batches:
                kind.FromString(batch)  # one after the other: what all are parsed takes much more room than they do
        except TooMuchError as error:
            raise RefusedError(413, str(error)) from error
        except (DecodeError, ParseError, ValueError, RecursionError, AttributeError, TypeError) as error:
            raise RefusedError(400, f"this is no OTLP: {str(error)[:200]}") from error
        if batches:
            self._store([NewBatch(name, items, batch) for items, batch in batches])

    def _store(self, batches: list[NewBatch]) -> None:
        """Commit. A corrupt file is set aside and another begun, a deleted one is made again."""
        for attempt in range(2):
            opening = identity_of(self.home / STORE_FILE)
            try:
                self._opened().append(batches, time.time_ns())
                break
            except (sqlite3.Error, StoreError, OSError) as error:
                damaged = self._database.identity if self._database is not None else opening
                self._disconnect()
                if attempt or not (isinstance(error, sqlite3.Error) and is_corrupt(error)):
                    raise RefusedError(503, f"the store cannot be written now: {error}") from error
                aside = set_aside(self.home / STORE_FILE, damaged)
                print(f"otel-perf view: the store was corrupt ({error}); set aside as {aside}", file=sys.stderr)
        self.items += sum(batch.items for batch in batches)

    def _opened(self) -> Database:
        if self._database is not None and not self._database.is_current():
            self._disconnect()
        if self._database is None:
            make_private(self.home)
            # "Delivered": nobody is to send it on.
            self._database = Database(self.home / STORE_FILE, limit=self._limit, delivered=True)
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def close(self) -> None:
        """Close the store."""
        self._thread.shutdown(wait=True)
        self._disconnect()


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
        if unpacker.eof and unpacker.unused_data:  # it would be said to be stored, and is not
            raise RefusedError(400, "more follows the gzip: send it as one member")
    else:
        raise RefusedError(415, f"content encoding {encoding!r}; send gzip, or none")
    if len(plain) > most:
        raise RefusedError(413, f"at most {most} bytes once it is unpacked")
    return plain


def _of_json(kind: Any, body: bytes) -> Any:
    """A request of OTLP's JSON, which has ids in hex where protobuf's own has base64."""
    if body.count(b"{") + body.count(b"[") > NODES:
        raise TooMuchError(f"at most {NODES} objects and lists in a JSON body")
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
