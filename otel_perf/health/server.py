"""The port: answers from a thread of its own, with what the latest look at the checks has left.

Of the processes that share the port one listens, and answers for all of them; the others stand by, and one of them
takes over when it ends. Of gunicorn's that is the master, which the workers come and go under.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from _socket import socket as Socket  # noqa: N812 - gevent and eventlet replace that of the module ``socket``
from contextlib import closing, suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.threads import allocate_lock, start_new_thread
from otel_perf.health.documents import Answer, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_perf.core.guard import Guard
    from otel_perf.health.runner import Report

RETRY: Final = 1.0  # seconds between tries to listen
PATIENCE: Final = 2.0  # seconds that a client has for its request
AT_ONCE: Final = 32  # clients; for one more the oldest goes that has said nothing, and if there is none, it waits
IDLE: Final = 0.1  # seconds that each may say nothing
REQUEST: Final = 8192  # bytes
END: Final = b"\r\n\r\n"  # of a request
LONGEST: Final = 2**20  # bytes of an answer
FOREIGN: Final = 5  # tries, after which who has the port is asked whom it answers for
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Server:
    """:meth:`bind` is for one thread, the rest for any."""

    def __init__(
        self, host: str, port: int, problem: Callable[[str], None], guard: Callable[[], Guard] | None = None
    ) -> None:
        self.reports: Sequence[Report] = ()
        self._host = host
        self._port = port
        self._problem = problem
        self._guard = guard
        self._said = self._closed = False
        self._listener: Socket | None = None
        self._identity = (0, 0)  # of the listener
        self._clients: dict[Socket, float] = {}  # when each was let in, if it has said nothing yet
        self._lock = allocate_lock()  # held to listen, and to end it
        self._reset()

    def _reset(self) -> None:
        self._due = 0.0
        self._tries = 0

    @property
    def is_bound(self) -> bool:
        """Whether it is this process that answers."""
        return self._listener is not None

    def bind(self) -> None:
        """Listen, if nobody else does."""
        if self._listener is not None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + RETRY
        try:
            with self._lock:
                if self._closed:  # meanwhile, by who turned it off: nobody would end it any more
                    return
                self._listener = listener = self._listen()
                self._identity = _identity(listener)
        except OSError as error:
            self._failed(error)
            return
        self._tries = 0
        try:
            start_new_thread(self._serve, (listener,))
        except RuntimeError:  # no more threads
            self._end()

    def close(self) -> None:
        """Listen no more, ever."""
        with self._lock:
            self._closed = True
        self._end()

    def _end(self) -> None:
        listener, self._listener = self._listener, None
        self._reset()
        if listener is not None:
            if self._is_ours(listener):
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._let_go(listener)

    def _is_ours(self, listener: Socket) -> bool:
        """Whether the app has closed all descriptors, to become a daemon, and the number is somebody else's."""
        return _identity(listener) == self._identity

    def _let_go(self, listener: Socket) -> None:
        with suppress(OSError):
            if self._is_ours(listener):
                listener.close()
            else:
                listener.detach()

    def after_fork_in_child(self) -> None:
        """The parent listens; the child's copy of the descriptor would keep the port from others when it has ended."""
        listener, self._listener = self._listener, None
        self._clients = {}
        self._lock = allocate_lock()
        self.reports = ()
        self._reset()
        if listener is not None:
            self._let_go(listener)

    def _listen(self) -> Socket:
        made = Socket(_family(self._host), socket.SOCK_STREAM)
        try:
            made.settimeout(None)  # the app may have set a default
            if sys.platform != "win32":  # there it would take the port from who has it
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self._host, self._port))
            made.listen(128)
        except BaseException:
            made.close()
            raise
        return made

    def _failed(self, error: OSError) -> None:
        self._tries += 1
        if self._said:
            return
        if not is_taken(error):
            self._say(f"cannot be listened at ({error}); name an address of this machine, and a port above 1023")
        elif self._tries == FOREIGN and not answers_for(os.getpid(), self._host, self._port):
            whose = "by another program, or by a service with another OTEL_PERF_HOME or user"
            self._say(f"is taken {whose}; choose another port")

    def _say(self, what: str) -> None:
        self._said = True
        self._problem(f"otel-perf: OTEL_PERF_HEALTH_PORT={self._port} at {self._host} {what}; health has no port")

    # --- answering ----------------------------------------------------------------------------------

    def _serve(self, listener: Socket) -> None:
        while listener is self._listener:
            if not self._is_ours(listener):
                self._end()  # the next look listens anew
                return
            try:
                client = Socket(_family(self._host), socket.SOCK_STREAM, 0, listener._accept()[0])  # type: ignore[attr-defined]
            except OSError:  # it was closed, or there are no descriptors left
                if listener is self._listener:
                    _wait(RETRY)
                continue
            try:
                self._let_in(client, listener)
            except Exception as error:  # whatever a client does, the next one is served
                self._clients.pop(client, None)
                client.close()
                self._unexpected(error)

    def _let_in(self, client: Socket, listener: Socket) -> None:
        while len(self._clients) >= AT_ONCE and listener is self._listener:
            if not self._send_away():
                _wait(0.01)
        self._clients[client] = time.monotonic()
        read = _there(client)
        if read:
            self._clients[client] = inf
        if END in read:
            self._converse(client, read)
            return
        try:
            start_new_thread(self._converse, (client, read))
        except RuntimeError:  # no more threads
            self._converse(client, read)

    def _send_away(self) -> bool:
        """Make room: end the conversation of the oldest that has said nothing."""
        for client, since in list(self._clients.items()):
            if since > time.monotonic() - IDLE:
                continue
            if sys.platform != "win32":
                with suppress(OSError):  # nothing, or it has gone
                    if client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):  # its thread has not got round to it
                        continue
            self._clients.pop(client, None)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # wakes its thread
            return True
        return False

    def _converse(self, client: Socket, read: bytes) -> None:
        unexpected: Exception | None = None
        try:
            method, path = self._request(client, read)
            try:
                found = self._answer(method, path)
            except Exception as error:
                unexpected, found = error, Answer(503, b"")
            if client in self._clients:  # not sent away
                client.sendall(_response(found, with_body=method != "HEAD"), getattr(socket, "MSG_NOSIGNAL", 0))
        except OSError:  # it went away
            pass
        except Exception as error:
            unexpected = error
        finally:
            self._clients.pop(client, None)
            client.close()
        if unexpected is not None:
            self._unexpected(unexpected)

    def _unexpected(self, error: Exception) -> None:
        if self._guard is not None:
            self._guard().handle(error, steps_down=False)  # that would close the port

    def _request(self, client: Socket, read: bytes) -> tuple[str, str]:
        """Method and path; of what is no request, nothing."""
        ends = time.monotonic() + PATIENCE
        while END not in read and len(read) < REQUEST:
            more = client.recv(REQUEST)
            if not more or time.monotonic() > ends:
                break
            if client in self._clients:
                self._clients[client] = inf
            read += more
        words = read.partition(b"\r\n")[0].decode("latin-1").split(" ")
        return (words[0], words[1]) if len(words) == 3 else ("", "")

    def _answer(self, method: str, path: str) -> Answer:
        if not path.startswith("/"):
            return Answer(400, b"")
        if method not in {"GET", "HEAD"}:
            return Answer(405, b"")
        return answer(self.reports, path.partition("?")[0], time.monotonic())


def _identity(listener: Socket) -> tuple[int, int]:
    try:
        found = os.fstat(listener.fileno())
    except OSError:  # closed
        return -1, -1
    return found.st_dev, found.st_ino


def _wait(seconds: float) -> None:
    """``time.sleep`` may be gevent's."""
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(timeout=seconds)


def _there(client: Socket) -> bytes:
    """What the client has sent already, mostly its whole request; and a bound for all that it may still be waited for.

    Where another thread computes, each call that gives the interpreter away takes 5 ms to get it back. With
    ``settimeout`` each would do so twice, and a thread for each client once more.
    """
    if sys.platform == "win32":
        client.settimeout(PATIENCE)
        return b""
    if client.gettimeout() is not None:  # the app's default, with which each call would wait by itself
        client.settimeout(None)
    seconds = struct.pack("ll", int(PATIENCE), int(PATIENCE % 1 * 1e6))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
    try:
        return client.recv(REQUEST, socket.MSG_DONTWAIT)
    except OSError:  # nothing yet, or it has gone again
        return b""


def _response(found: Answer, *, with_body: bool) -> bytes:
    headers: list[tuple[str, Any]] = [*found.headers, ("Connection", "close")]
    lines = [f"HTTP/1.1 {found.status} {_REASONS[found.status]}", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + found.body if with_body else head


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_taken(error: OSError) -> bool:
    """Whether somebody else listens."""
    import errno

    return error.errno in {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)}


def answers_for(pid: int, host: str, port: int) -> bool:
    """Whether the answer of who listens there is about that process, too."""
    found = b""
    # create_connection would import to look up a name
    with suppress(OSError), closing(Socket(_family(host), socket.SOCK_STREAM)) as asked:
        asked.settimeout(PATIENCE)
        asked.connect((reachable(host), port))
        asked.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while len(found) < LONGEST and (more := asked.recv(REQUEST)):
            found += more
    return f'"componentId": "{pid}"'.encode() in found


def reachable(host: str) -> str:
    """Where a server can be asked that listens at ``host``."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
