"""A receiver of OTLP over HTTP that is in trouble, or not. Arguments: TROUBLE PORT. Prints a line when it is.

``GET /ids`` gives trace and span id, 24 bytes together, of every span in the requests that were answered with 200, be
it that nobody waited for the answer any more; ``GET /requests`` how many requests came. Bodies are decoded only then.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from counting import span_ids
from sink import PROTOBUF, Handler, Server, bodies

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = 1.0  # seconds
GARBAGE = bytes(range(0x80, 0x100)) + b"\r\n\r\n"


class Troubled(Handler):
    """One connection of a sender."""

    trouble: ClassVar[Callable[[Troubled], bool]]  # whether to take what was sent; if not, it has answered as it does
    counts: ClassVar[Counter[str]] = Counter()
    lock: ClassVar = threading.Lock()

    def do_POST(self) -> None:
        """Keep what is answered with 200."""
        self.count("requests", 1)
        self.count("under way", 1)
        try:
            sent = self.received()
            if type(self).trouble(self):
                bodies.append(sent)
                self.answer(b"", PROTOBUF)
        except ConnectionError:  # the sender is gone
            self.close_connection = True
        finally:
            self.count("under way", -1)

    def do_GET(self) -> None:
        """Say what came."""
        if self.path == "/requests":
            self.answer(str(self.counts["requests"]).encode(), "text/plain")
            return
        while self.counts["under way"]:  # all senders have ended, and no request lasts long after that
            time.sleep(0.01)
        self.answer(b"".join(span_ids(bodies)), "application/octet-stream")

    def count(self, what: str, by: int) -> None:
        """Count, from any thread."""
        with self.lock:
            self.counts[what] += by

    def fine(self) -> bool:
        """Take it at once."""
        return True

    def slow(self) -> bool:
        """Take it after a while."""
        time.sleep(SLOW)
        return True

    def hang(self) -> bool:
        """Answer never; the sender gives up."""
        self.rfile.read(1)
        self.close_connection = True
        return False

    def too_many(self) -> bool:
        """Ask for patience."""
        self.answer(b"", PROTOBUF, 429, (("Retry-After", "1"),))
        return False

    def unavailable(self) -> bool:
        """Be out of order."""
        self.answer(b"", PROTOBUF, 503)
        return False

    def garbage(self) -> bool:
        """Answer with no HTTP."""
        self.wfile.write(GARBAGE)
        self.close_connection = True
        return False


TROUBLES = {
    "none": Troubled.fine,
    "slow": Troubled.slow,
    "hanging": Troubled.hang,
    "429": Troubled.too_many,
    "503": Troubled.unavailable,
    "garbage": Troubled.garbage,
}


def main(trouble: str, port: int) -> None:
    """Be in trouble until the end of standard input."""
    with contextlib.ExitStack() as stack:
        if trouble == "refused":  # the port is taken, so that nobody else gets it, and nobody listens
            stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        else:
            Troubled.trouble = TROUBLES[trouble]
            server = stack.enter_context(Server(("127.0.0.1", port), Troubled))
            threading.Thread(target=server.serve_forever, daemon=True).start()
        print(trouble, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
