"""Takes OTLP over HTTP and answers 200; ``GET /counts`` says what came since the last time it was asked.

Prints its port. Bodies are decoded only when they are counted, so that a request costs as little as possible.
"""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from counting import count

bodies: list[tuple[str, bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """One connection of a sender."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Keep what was sent."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.headers.get("Content-Encoding") == "gzip"
        bodies.append((self.path.rpartition("/")[2], gzip.decompress(body) if packed else body))
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        """Count what was kept, and forget it."""
        taken, bodies[:] = bodies[:], []
        self._answer(json.dumps(count(taken)).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
