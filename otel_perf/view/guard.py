"""What every request passes: who may ask, for how long, and what browsers may do with the answer.

A page on this machine is reached by every other page that the browser has open. A foreign ``Host`` is a name that
somebody else's server made point here (DNS rebinding); another ``Origin`` is another page's script; and a frame could
be laid under somebody's clicks. Spans, log lines and paths are anybody's text: the policy below runs and loads nothing
but our own files, whatever is in them.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
ANSWER: Final = 30.0  # seconds from a request to the end of its answer; of a stream, until a piece of it is taken
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
STREAM: Final = "/api/live"


class Guard:
    """Around an ASGI application. ``hosts`` are names of this machine, without ports; a ``token`` is asked for.

    ``by_address`` answers to any address of numbers too: unlike a name, nobody else can make it point here.
    """

    def __init__(
        self, app: App, *, hosts: Iterable[str] = LOOPBACK, token: str = "", methods: Iterable[str] = ("GET", "HEAD"),
        by_address: bool = False,
    ) -> None:  # fmt: skip
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token
        self._methods = frozenset(methods)
        self._by_address = by_address

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the headers added."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = scope["headers"]
        refused = self._refusal(scope, headers)
        if refused is not None:
            await answer(send, *refused)
            return
        if self._token and (_has_token(scope) or not self._is_known(scope, headers)):
            await self._let_in(scope, headers, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        async def piecewise(message: Message) -> None:
            async with asyncio.timeout(ANSWER):
                await guarded(message)

        if scope["path"] == STREAM:
            await self._app(scope, receive, piecewise)
            return
        try:
            async with asyncio.timeout(ANSWER):
                await self._app(scope, receive, guarded)
        except TimeoutError as error:
            # A client that does not take its answer: the server closes the connection of a request that failed.
            raise ConnectionAbortedError(f"{scope['path']} took longer than {ANSWER:g} s") from error

    def _refusal(self, scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return 400, "one Host header, please"
        host = hosts[0].decode("latin-1").lower()
        asked = _without_port(host)
        if asked not in self._hosts and not (self._by_address and _is_address(asked)):
            return 421, f"this is not known as {asked[:100]!r}; otel-perf view --allow-host NAME adds a name"
        for name, value in headers:
            if name == b"origin" and value.decode("latin-1").lower() not in {f"http://{host}", f"https://{host}"}:
                return 403, "no other origin may ask here"
            if name == b"sec-fetch-site" and value == b"cross-site" and scope["path"] != "/":
                return 403, "no other site may ask here"
        if scope["method"] not in self._methods:
            return 405, f"only {', '.join(sorted(self._methods))}"
        return None

    def _is_known(self, scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the token came, as a cookie or as ``Authorization: Bearer``."""
        given = ""
        for name, value in headers:
            text = value.decode("latin-1")
            if name == b"authorization" and text.lower().startswith("bearer "):
                given = text[7:].strip()
            elif name == b"cookie" and not given:
                try:
                    found = SimpleCookie(text).get(cookie_of(scope))
                except CookieError:
                    found = None
                given = found.value if found is not None else ""
        return hmac.compare_digest(given.encode(), self._token.encode())

    async def _let_in(self, scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]], send: Send) -> None:
        """The address that was printed has the token; it becomes a cookie, and leaves the address.

        Also where the cookie was there already: an address is kept, copied and shown to others.
        """
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and hmac.compare_digest(given.encode(), self._token.encode()):
            cookie = f"{cookie_of(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
            return
        if self._is_known(scope, headers):  # and the token that it has no longer
            await answer(send, 303, "", [(b"location", b"/")])
            return
        await answer(
            send,
            401,
            "a token is needed: open the address that otel-perf view printed",
            [(b"www-authenticate", b"Bearer")],
        )


def _has_token(scope: MutableMapping[str, Any]) -> bool:
    """Whether the page's own address says one, right or wrong."""
    return scope["path"] == "/" and b"token=" in scope["query_string"]


def cookie_of(scope: MutableMapping[str, Any]) -> str:
    """Cookies are shared by all ports of a host: each has a name of its own."""
    return f"otel-perf-view-{(scope.get('server') or ('', 0))[1]}"


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isdigit() or not port) and not host.endswith("]") else host


async def answer(
    send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = (), *, media: bytes = b"text/plain"
) -> None:
    """A short answer, and the end of the connection if it is a refusal: its body is not read."""
    body = text.encode()
    every = [(b"content-type", media + b"; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    if status >= 400:
        every.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*every, *headers]})
    await send({"type": "http.response.body", "body": body})


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name[:1] == "[" and name[-1:] == "]" else name)
    except ValueError:
        return False
    return True


def names_of(address: str) -> set[str]:
    """The names by which a page that listens there may be asked for."""
    found = {*LOOPBACK, f"[{address}]" if ":" in address else address.lower()}
    if not is_loopback(address):
        found.add(socket.gethostname().lower())
    return found


def addresses_of(address: str) -> list[str]:
    """Where a page that listens there is reached: of a wildcard, at every address of this machine."""
    if address not in {"0.0.0.0", "::"}:  # noqa: S104  what was asked for
        return [address]
    import psutil

    kinds = {socket.AF_INET} if address == "0.0.0.0" else {socket.AF_INET, socket.AF_INET6}  # noqa: S104
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        entry.address for name, entries in psutil.net_if_addrs().items() if name in up
        for entry in entries if entry.family in kinds and "%" not in entry.address
    ]  # fmt: skip
    return ["127.0.0.1", *(one for one in found if not is_loopback(one))]
