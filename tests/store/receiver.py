"""A receiver that answers as a test says: a real HTTP server on loopback."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """Takes requests; ``answer`` is called with each and returns (status, headers, body)."""

    def __init__(self):
        self.requests = []  # (path, headers, body) of what was answered with a 2xx
        self.seen = []  # all of them
        self.answer = lambda path, headers, body: (200, {}, b"")
        self.url = ""

    @contextmanager
    def running(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                request = (self.path, dict(self.headers), body)
                outer.seen.append(request)
                status, headers, content = outer.answer(*request)
                if 200 <= status < 300:
                    outer.requests.append(request)
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
