"""OTLP over HTTP: protobuf bodies, on a kept connection of urllib3."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
import ssl
import time
import zlib
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from otel_perf.store.sender import LONGEST_WAIT, Answer, no_rest, partial_success, user_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_perf.store.destination import Destination

BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
MISCONFIGURED: Final = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 415, 421, 426, 511})
TOO_LARGE: Final = 413
PIECE: Final = 16 * 1024  # bytes compressed in one go, in about 0.4 ms
BODY_LIMIT: Final = 64 * 1024  # bytes of an answer that are read
_CONNECTION: Final = re.compile(r"^HTTPS?Connection(?:Pool)?\(.*?\): | \(read timeout=.*?\)$")
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # as zlib names the two formats
_SHOWN: Final = 200  # characters of an answer that a line quotes


class HttpSender:
    """Posts to one URL; proxies and authorities as the environment names them (``HTTPS_PROXY``, ``NO_PROXY``)."""

    def __init__(self, destination: Destination) -> None:
        import urllib3

        self._urllib3: Any = urllib3
        self._destination = destination
        self._headers = headers(destination)
        self._pool: Any = None

    def pack(self, body: bytes, rest: Callable[[], None] = no_rest) -> bytes:
        """Compressed."""
        return compressed(body, self._destination.compression, rest)

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Post ``payload``."""
        urllib3 = self._urllib3
        deadline = time.monotonic() + timeout
        try:
            if self._pool is None:
                self._pool = _pool(self._destination)
            response = self._pool.request(
                "POST",
                self._destination.url,
                body=payload,
                headers=self._headers,
                timeout=urllib3.Timeout(total=timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return failed(error)
        try:
            content = _read(response, deadline)
        except Exception as error:
            response.close()
            if response.status < 300 and isinstance(error, urllib3.exceptions.HTTPError | OSError):
                return failed(error)  # no answer to the end
            content = b""  # it refuses and hangs up, or its words are garbled: its status says enough
        response.release_conn()
        found = response.headers
        answer = judge(self._destination.signal, response.status, response.reason or "", found, content)
        return told(answer, self._destination, found)

    def close(self) -> None:
        """Close the connection."""
        if self._pool is not None:
            with contextlib.suppress(Exception):
                self._pool.clear()
            self._pool = None


def told(answer: Answer, destination: Destination, received: Mapping[str, str]) -> Answer:
    """``answer`` with the receiver's time, and without credentials that the receiver repeats."""
    detail, message = destination.redacted(answer.detail), destination.redacted(answer.message)
    return replace(answer, detail=detail, message=message, date=received.get("date", ""))


def headers(destination: Destination) -> dict[str, str]:
    """The request's headers: the protocol's own, then the user's, which win."""
    own = {"content-type": "application/x-protobuf", "user-agent": user_agent()}
    if destination.compression != "none":
        own["content-encoding"] = destination.compression
    parts = urlsplit(destination.url)
    if parts.username and "authorization" not in destination.headers:
        own |= basic_auth(unquote(parts.username), unquote(parts.password or ""))
    return own | dict(destination.headers)


def basic_auth(name: str, password: str, header: str = "authorization") -> dict[str, str]:
    """The header that an address of the form ``http://name:password@host`` asks for."""
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {header: f"Basic {credentials}"}


def compressed(body: bytes, compression: str, rest: Callable[[], None]) -> bytes:
    """``body`` as the destination wants it."""
    if compression not in _WINDOWS:
        return body
    # The interpreter is free meanwhile, but a CPU is not.
    compressor = zlib.compressobj(6, wbits=_WINDOWS[compression])
    parts = []
    for start in range(0, len(body), PIECE):
        parts.append(compressor.compress(body[start : start + PIECE]))
        rest()
    return b"".join([*parts, compressor.flush()])


def authorities(destination: Destination) -> str | None:
    """The file or folder of certificates to trust, as requests (which upstream sends with) finds it."""
    for path in (destination.certificate, os.environ.get("REQUESTS_CA_BUNDLE"), os.environ.get("CURL_CA_BUNDLE")):
        if path:
            return path
    try:
        import certifi
    except ImportError:
        return None  # the system's
    return certifi.where()


def judge(signal: str, status: int, reason: str, received: Mapping[str, str], content: bytes) -> Answer:
    """What an HTTP answer means for the request."""
    said = f"{status} {reason}".strip()
    kind = received.get("content-type", "")
    if 200 <= status < 300:
        return _taken(signal, said, kind, content)
    explanation = _explanation(kind, content)
    detail = f"{said}: {explanation}" if explanation else said
    if status == TOO_LARGE:
        return Answer("too large", detail)
    if status in BUSY:
        return Answer("busy", detail, retry_after=_retry_after(received.get("retry-after")))
    if status in MISCONFIGURED or status < 400:
        return Answer("misconfigured", detail)
    return Answer("refused", detail)


def _taken(signal: str, said: str, kind: str, content: bytes) -> Answer:
    # Pages come without a type as well; no OTLP response begins like that.
    if kind.startswith("text/html") or content.lstrip().startswith(b"<"):
        return Answer("misconfigured", f"{said} with a web page: no OTLP receiver")
    if content and ("json" in kind or kind.startswith("text/")):
        return _of_json(said, content)
    rejected, message = partial_success(signal, content) if content else (0, "")
    return Answer("accepted", said, rejected=rejected, message=message)


def _of_json(said: str, content: bytes) -> Answer:
    """What this JSON, or text, says; some vendors answer in their own way, and something else may listen there."""
    try:
        found = json.loads(content)
        if isinstance(found, dict) and found.keys() <= {"partialSuccess"}:
            partial = found.get("partialSuccess") or {}
            counts = (int(value) for name, value in partial.items() if name.startswith("rejected"))
            return Answer("accepted", said, rejected=sum(counts), message=str(partial.get("errorMessage") or ""))
    except (AttributeError, TypeError, ValueError):
        pass
    return Answer("accepted", said, message="its answer is no OTLP response; is the endpoint a receiver of OTLP?")


def failed(error: Exception) -> Answer:
    """What it means that no answer came."""
    reason = getattr(error, "reason", None)
    if not isinstance(reason, Exception):  # "Connection aborted" and the like carry the cause
        reason = next((part for part in error.args if isinstance(part, Exception)), error)
    shown = str(reason) or repr(error)
    shown = _CONNECTION.sub("", shown.rpartition(">: ")[2])  # urllib3 puts its connection first
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None or "certificate" in shown.lower():
        return Answer("misconfigured", shown)
    return Answer("busy", shown)


def _pool(destination: Destination) -> Any:
    import urllib3

    parts = urlsplit(destination.url)
    options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "retries": False}
    if parts.scheme == "https":
        trusted = authorities(destination)
        kind = "ca_cert_dir" if trusted and Path(trusted).is_dir() else "ca_certs"
        options |= {kind: trusted, "cert_reqs": "CERT_REQUIRED"}
        options |= {"cert_file": destination.client_certificate, "key_file": destination.client_key}
    proxy = proxy_for(destination)
    if proxy is None:
        return urllib3.PoolManager(**options)
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    credentials: dict[str, str] = {}
    if address.username:
        name, password = unquote(address.username), unquote(address.password or "")
        credentials = basic_auth(name, password, "proxy-authorization")
    return urllib3.ProxyManager(address.geturl(), proxy_headers=credentials, **options)


def proxy_for(destination: Destination) -> str | None:
    """The proxy that the environment names for this destination."""
    parts, proxies = urlsplit(destination.url), getproxies()
    return None if proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme) or proxies.get("all")


def _read(response: Any, deadline: float) -> bytes:
    """The answer's body, within the deadline and the limit."""
    content = b""
    while len(content) < BODY_LIMIT:
        piece = response.read1(4096)  # what is there: read() would wait for all of it
        if not piece:
            break
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    return content


def _explanation(kind: str, content: bytes) -> str:
    """The receiver's words: a google.rpc.Status in protobuf, or text."""
    if kind.startswith("application/x-protobuf"):
        from google.protobuf.message import DecodeError

        try:
            from google.rpc.status_pb2 import Status

            text = Status.FromString(content).message
        except (DecodeError, ImportError):
            return ""
    elif kind.startswith("text/html"):
        return ""
    else:
        text = content.decode("utf-8", "replace")
    return " ".join(text.split())[:_SHOWN]


def _retry_after(value: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks for, be it a number or a date; at most ``LONGEST_WAIT``."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None
