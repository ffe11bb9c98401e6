"""Runs ASGI applications with uvicorn in one loop, with a bound on how long a request may take to come in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from otel_perf.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_perf.view.guard import App

INCOMING: Final = 20.0  # seconds from the first byte of a request to its last
OUTGOING: Final = 20.0  # seconds in which a client has to take what was sent: an answer, or a piece of a stream
CONNECTIONS: Final = 100
_HEADERS: Final = 16_384  # bytes of a request's headers


class Protocol(H11Protocol):
    """uvicorn's, which waits for as long as the client likes: for the rest of a request, and for an answer to be taken.

    asyncio's ``close`` waits for the latter as well, so connections are ended with ``abort``.
    """

    _slow: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _is_ended = False
    _since = 0.0  # when it last did what it was waited for

    def connection_made(self, transport: Any) -> None:
        """Start the clock: a connection that says nothing is closed as well."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # from here on "paused" is "not all of it was taken"
        self._since = self.loop.time()
        self._watch()
        if len(self.connections) >= CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Stop the clock once the request is whole."""
        super().data_received(data)
        if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
            self._watch()
        else:
            self._unwatch()

    def pause_writing(self) -> None:
        """Start the other clock: the client does not take what is sent."""
        super().pause_writing()
        self._since = self.loop.time()
        if self._unread is None:
            self._unread = self.loop.call_later(OUTGOING, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._stop_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both."""
        self._unwatch()
        self._stop_unread()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(INCOMING, self.transport.abort)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        self._since = self.loop.time()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def _waits_for_its_client(self) -> bool:
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle or self.flow.write_paused or self.conn.their_state is h11.SEND_BODY

    def _make_room(self) -> None:
        """End the connection that has waited for its client the longest: who only holds on keeps no visitor out."""
        here = [one for one in self.connections if isinstance(one, Protocol) and not one._is_ended]
        others = [one for one in here if one is not self and one._waits_for_its_client]
        if others and len(here) >= CONNECTIONS:
            longest = min(others, key=lambda one: one._since)
            longest._is_ended = True  # it is still among the connections for a moment
            longest.transport.abort()


class _Server(uvicorn.Server):
    """One of several in a loop: signals are heard by whoever runs them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them."""
        yield


def listen(address: str, port: int, option: str = "--port", *, or_another: bool = False) -> socket.socket:
    """A listening socket. Raises ``SettingError`` if the port is taken, and no other will do."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in (port, 0) if or_another else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.strip("[]"), candidate))
            listener.listen(128)
            listener.setblocking(False)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise SettingError(f"{address}:{port} cannot be listened on ({problem.strerror}); choose another with {option}")


async def serve(apps: Sequence[tuple[App, socket.socket]], stop: asyncio.Event) -> None:
    """Serve until ``stop``."""
    servers = []
    for app, listener in apps:
        config = uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", access_log=False, log_level="error", server_header=False,
            proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=15,
            timeout_graceful_shutdown=2, h11_max_incomplete_event_size=_HEADERS,
        )  # fmt: skip
        servers.append((_Server(config), listener))
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for server, _ in servers:
        server.should_exit = True
    stopping.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
