"""OTLP over HTTP through the ``requests.Session`` of a credential provider, as upstream's exporters take one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.util._importlib_metadata import entry_points

from otel_perf.store.http_sender import compressed, failed, headers, judge, told
from otel_perf.store.sender import Answer, no_rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.store.destination import Destination

GROUP = "opentelemetry_otlp_credential_provider"


class SessionSender:
    """Posts with a session that signs or authorizes its requests."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._headers = headers(destination)
        self._session: Any = None

    def pack(self, body: bytes, rest: Callable[[], None] = no_rest) -> bytes:
        """Compressed."""
        return compressed(body, self._destination.compression, rest)

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Post ``payload``."""
        destination = self._destination
        try:
            if self._session is None:
                self._session = self._make()
            response = self._session.post(
                destination.url,
                data=payload,
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,
            )
            found = response.headers
            answer = judge(destination.signal, response.status_code, response.reason, found, response.content)
            return told(answer, destination, found)
        except LookupError as error:
            return Answer("misconfigured", str(error))
        except Exception as error:  # the session is somebody else's code
            return failed(error)

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _make(self) -> Any:
        name = self._destination.credential_provider
        for entry_point in entry_points(group=GROUP, name=name or ""):
            session = entry_point.load()()
            session.verify = self._destination.certificate or True
            if self._destination.client_certificate:
                pair = (self._destination.client_certificate, self._destination.client_key)
                session.cert = pair if pair[1] else pair[0]
            return session
        raise LookupError(f"credential provider {name!r} is not installed (entry points of {GROUP})")
