"""Where a signal is sent: OpenTelemetry's ``OTEL_EXPORTER_OTLP_*`` variables, resolved when draining.

A variable with a signal's name wins over the general one, as the specification has it. Nothing here is ever
stored, headers least of all.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from otel_perf.core.exporters import exporter_names, names_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Say = Callable[[str], None]

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
DEFAULT_TIMEOUT: Final = 10.0  # seconds
LOCAL: Final = {HTTP: "http://localhost:4318", GRPC: "http://localhost:4317"}
PATHS: Final = {"traces": "v1/traces", "metrics": "v1/metrics", "logs": "v1/logs"}
_MILLISECONDS: Final = 1000.0  # a timeout from here on was meant in the specification's unit
_COMPRESSIONS: Final = ("none", "gzip", "deflate")
_PREFIX: Final = "OTEL_EXPORTER_OTLP"
_SECRET: Final = 8  # characters; what is shorter is a word like Bearer, and would be found everywhere
_FILES: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")


@dataclass(frozen=True, slots=True)
class Destination:
    """One signal's receiver and how to reach it. ``repr`` shows no header: they hold credentials."""

    signal: str
    protocol: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = DEFAULT_TIMEOUT
    compression: str = "none"
    certificate: str | None = None  # file of the authorities to trust; None: the system's
    client_certificate: str | None = None
    client_key: str | None = None
    credential_provider: str | None = None  # an entry point that gives a requests.Session

    @property
    def place(self) -> str:
        """The URL without what may be a secret, for people."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    def redacted(self, said: str) -> str:
        """What a receiver said, without the credentials that it may repeat: it is shown, logged and stored.

        The end may be a part of one, where what it said was too long.
        """
        parts = urlsplit(self.url)
        name, password = unquote(parts.username or ""), unquote(parts.password or "")
        known = [*self.headers.values(), password, base64.b64encode(f"{name}:{password}".encode()).decode()]
        secrets = {word for value in known for word in (value, *value.split()) if len(word) >= _SECRET}
        for secret in sorted(secrets, key=len, reverse=True):
            said = said.replace(secret, "…")
            cut = next((size for size in range(len(secret), _SECRET // 2, -1) if said.endswith(secret[:size])), 0)
            said = f"{said[:-cut]}…" if cut else said
        return said


def mark(environ: Mapping[str, str]) -> str:
    """A short name of what decides where telemetry goes (endpoints, headers); empty if no endpoint is named.

    What was stored for one destination is not sent to another because two programs share a folder.
    """
    if not names_endpoint(environ):
        return ""
    chosen = sorted(
        (name, value)
        for name, value in environ.items()
        if name.startswith(f"{_PREFIX}_") and name.endswith(("_ENDPOINT", "_HEADERS"))
    )
    return hashlib.blake2b(repr(chosen).encode(), digest_size=8).hexdigest()


def resolve(environ: Mapping[str, str], signal: str, say: Say, *, local: bool = False) -> Destination | None:
    """The destination of ``signal``, or ``None`` if nothing usable is named; ``say`` gets a line about what is wrong.

    A signal without an endpoint goes to the protocol's port on this machine, as the specification has it, if another
    signal has one, or with ``local``.
    """
    return _Resolver(environ, signal, say).destination(local=local or names_endpoint(environ))


def files(environ: Mapping[str, str], signal: str) -> list[str]:
    """The variables that name certificates and keys for ``signal``."""
    resolver = _Resolver(environ, signal, lambda _line: None)
    return [name for name, value in map(resolver.value, _FILES) if value]


class _Resolver:
    def __init__(self, environ: Mapping[str, str], signal: str, say: Say) -> None:
        self.environ = environ
        self.signal = signal
        self.say = say

    def destination(self, *, local: bool) -> Destination | None:
        name, base = self.value("ENDPOINT")
        protocol = self.protocol(base)
        if not base and local:
            name, base = "the receiver on this machine", LOCAL[protocol]
        if not base:
            return None
        url = self.url(name, base, protocol)
        if url is None:
            return None
        encrypted = urlsplit(url).scheme == "https"  # else no certificate is looked at, as with upstream's exporters
        certificates = {part: self.file(part) if encrypted else None for part in _FILES}
        if "" in certificates.values():
            return None
        self.pair(certificates, protocol)
        return Destination(
            signal=self.signal,
            protocol=protocol,
            url=url,
            headers=self.headers(),
            timeout=self.timeout(),
            compression=self.compression(),
            certificate=certificates["CERTIFICATE"],
            client_certificate=certificates["CLIENT_CERTIFICATE"],
            client_key=certificates["CLIENT_KEY"],
            credential_provider=self.credential_provider(),
        )

    def value(self, part: str) -> tuple[str, str]:
        """The variable that decides, and its value."""
        for name in (f"{_PREFIX}_{self.signal.upper()}_{part}", f"{_PREFIX}_{part}"):
            value = self.environ.get(name, "").strip()
            if value:
                return name, value
        return f"{_PREFIX}_{part}", ""

    def protocol(self, base: str) -> str:
        chosen = exporter_names(self.environ, self.signal)
        if "otlp_proto_grpc" in chosen:
            return GRPC
        if "otlp_proto_http" in chosen:
            return HTTP
        name, value = self.value("PROTOCOL")
        if value in {GRPC, HTTP}:
            return value
        guess = GRPC if _port(base) == 4317 else HTTP
        if value:
            self.say(f"{name}={value!r} is not supported; allowed: {HTTP}, {GRPC}; using {guess}")
        return guess

    def url(self, name: str, base: str, protocol: str) -> str | None:
        plain = base if "://" in base else f"{'https' if self.secure(protocol) else 'http'}://{base}"
        try:
            parts = urlsplit(plain)
            _ = parts.port
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable:
            shown = _without_secrets(base)
            self.say(f"{name}={shown!r} is no endpoint; allowed: http://host:port or https://host:port; storing only")
            return None
        if plain != base and protocol == HTTP:
            self.say(f"{name}={_without_secrets(base)!r} has no scheme; using {_without_secrets(plain)}")
        of_signal = name == f"{_PREFIX}_{self.signal.upper()}_ENDPOINT"
        if protocol == GRPC or of_signal:
            return plain
        return f"{plain.removesuffix('/')}/{PATHS[self.signal]}"

    def secure(self, protocol: str) -> bool:
        """Without a scheme: gRPC is encrypted unless ``…_INSECURE`` says otherwise, HTTP is not."""
        return protocol == GRPC and self.value("INSECURE")[1].lower() != "true"

    def headers(self) -> dict[str, str]:
        name, value = self.value("HEADERS")
        found: dict[str, str] = {}
        for number, part in enumerate(value.split(","), 1):
            key, equals, content = part.partition("=")
            key, content = unquote(key).strip().lower(), unquote(content).strip()
            if equals and key and key.isascii() and key.isprintable() and " " not in key and _is_header(content):
                found[key] = content
            elif part.strip():  # never shown: it may be half a credential
                self.say(f"{name}: entry {number} is malformed; allowed: name=value,name2=value2; left out")
        return found

    def timeout(self) -> float:
        name, value = self.value("TIMEOUT")
        try:
            seconds = float(value) if value else DEFAULT_TIMEOUT
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.say(f"{name}={value!r} is not a timeout; allowed: seconds above 0; using {DEFAULT_TIMEOUT:g}")
            return DEFAULT_TIMEOUT
        # Python's exporters take seconds, the specification says milliseconds.
        return seconds / 1000 if seconds >= _MILLISECONDS else seconds

    def compression(self) -> str:
        name, value = self.value("COMPRESSION")
        if value.lower() in {"", *_COMPRESSIONS}:
            return value.lower() or "none"
        self.say(f"{name}={value!r} is not a compression; allowed: {', '.join(_COMPRESSIONS)}; using none")
        return "none"

    def file(self, part: str) -> str | None:
        """The file that a variable names; an empty string if it cannot be read."""
        name, value = self.value(part)
        if not value:
            return None
        try:
            with Path(value).open("rb"):
                return value
        except OSError as error:
            self.say(f"{name}={value!r} cannot be read ({error.strerror}); storing only")
            return ""

    def pair(self, certificates: dict[str, str | None], protocol: str) -> None:
        """A client's certificate and its key: gRPC's core ends the process where it gets one of them."""
        if certificates["CLIENT_KEY"] and not certificates["CLIENT_CERTIFICATE"]:
            name, _ = self.value("CLIENT_KEY")
            self.say(f"{name} is without effect: {name.removesuffix('KEY')}CERTIFICATE is not set")
            certificates["CLIENT_KEY"] = None
        if protocol == GRPC and not certificates["CLIENT_KEY"]:  # one file may hold both, as over HTTP
            certificates["CLIENT_KEY"] = certificates["CLIENT_CERTIFICATE"]

    def credential_provider(self) -> str | None:
        general = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"
        of_signal = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{self.signal.upper()}_CREDENTIAL_PROVIDER"
        return self.environ.get(general) or self.environ.get(of_signal) or None


def _without_secrets(base: str) -> str:
    """``base`` without what stands before the last ``@``, and without a query."""
    scheme, found, rest = base.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2].partition('?')[0]}"


def _is_header(value: str) -> bool:
    return all(character == "\t" or (32 <= ord(character) < 256 and ord(character) != 127) for character in value)


def _port(base: str) -> int | None:
    try:
        return urlsplit(base if "://" in base else f"//{base}").port
    except ValueError:
        return None
