"""Takes OTLP over HTTP and answers 200; ``GET /counts`` says what came since the last time it was asked.

Prints its port, a free one or ``--port=``. Bodies are decoded only when they are counted, so that a request costs as
little as possible; with ``--discard`` they are thrown away.
"""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from counting import count

PROTOBUF = "application/x-protobuf"
bodies: list[tuple[str, bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """One connection of a sender."""

    protocol_version = "HTTP/1.1"
    discard = False

    def do_POST(self) -> None:
        """Keep what was sent."""
        sent = self.received()
        if not self.discard:
            bodies.append(sent)
        self.answer(b"", PROTOBUF)

    def do_GET(self) -> None:
        """Count what was kept, and forget it."""
        taken, bodies[:] = bodies[:], []
        self.answer(json.dumps(count(taken)).encode(), "application/json")

    def received(self) -> tuple[str, bytes]:
        """The signal and the serialized request that was posted."""
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the sender ended in the middle of a request")
        packed = self.headers.get("Content-Encoding") == "gzip"
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
    ports = [int(option.removeprefix("--port=")) for option in sys.argv if option.startswith("--port=")]
    server = Server(("127.0.0.1", ports[0] if ports else 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
