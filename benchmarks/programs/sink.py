"""Takes OTLP over HTTP and answers 200; ``GET /counts`` says what came since the last time it was asked.

Prints its port, a free one or ``--port=``. Bodies are decoded only when they are counted, so that a request costs as
little as possible; with ``--discard`` they are thrown away. After ``GET /close?SECONDS`` it answers 429 for so long,
and says when to come again.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from counting import count

PROTOBUF = "application/x-protobuf"
bodies: list[tuple[str, bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """One connection of a sender."""

    protocol_version = "HTTP/1.1"
    discard = False
    opens = 0.0  # by the monotonic clock

    def do_POST(self) -> None:
        """Keep what was sent."""
        sent = self.received()
        if (left := self.opens - time.monotonic()) > 0:
            self.answer(b"", PROTOBUF, 429, (("Retry-After", str(math.ceil(left))),))
            return
        if not self.discard:
            bodies.append(sent)
        self.answer(b"", PROTOBUF)

    def do_GET(self) -> None:
        """Close, or count what was kept, and forget it."""
        path, _, seconds = self.path.partition("?")
        if path == "/close":
            Handler.opens = time.monotonic() + float(seconds)
            self.answer(b"{}", "application/json")
            return
        taken, bodies[:] = bodies[:], []
        self.answer(json.dumps(count(taken)).encode(), "application/json")

    def received(self) -> tuple[str, bytes]:
        """The signal and the serialized request that was posted."""
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the sender ended in the middle of a request")
        packed = self.headers.get("Content-Encoding") == "gzip" and not self.discard
        return self.path.rpartition("/")[2], gzip.decompress(body) if packed else body

    def answer(self, body: bytes, kind: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer the request under way."""
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A sender that is killed in the middle of a request is no news."""

    def handle_error(self, *_args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.discard = "--discard" in sys.argv[1:]
    if Handler.discard:
        os.nice(19)  # it stands for another machine
    ports = [int(option.removeprefix("--port=")) for option in sys.argv if option.startswith("--port=")]
    server = Server(("127.0.0.1", ports[0] if ports else 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
