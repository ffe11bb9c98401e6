"""Where a NATS server is, and how to be let in there: from ``OTEL_PERF_SIGNALS_URL`` and its companions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from otel_perf.core.errors import SettingError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from otel_perf.signals.settings import SignalsSettings

SCHEMES: Final = ("nats", "tls")
BUCKET: Final = "otel_perf_signals"
PORT: Final = 4222
_CREDENTIALS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Address:
    """Servers of one cluster, and the bucket there. ``place`` and ``repr`` have no secrets."""

    servers: tuple[str, ...]  # without user and password
    bucket: str
    place: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)  # for ``nats.connect``


def without_password(url: str) -> str:
    """``url`` to be shown. Takes out too much rather than too little: up to the last ``@``."""
    return re.sub(r"//.*@", "//…@", url, flags=re.DOTALL)


def address_of(settings: SignalsSettings) -> Address:
    """Servers, comma-separated: ``nats://user:password@one:4222,two/bucket``. Raises ``SettingError``."""
    parts = [part.strip() for part in settings.url.split(",") if part.strip()]
    scheme = parts[0].partition("://")[0]
    urls = [_split(part if "://" in part else f"{scheme}://{part}", settings.url) for part in parts]
    bucket = next((url.path.strip("/") for url in urls if url.path.strip("/")), BUCKET)
    if not _BUCKET.fullmatch(bucket):
        raise _wrong(settings.url, "after the / the bucket has 1 to 64 letters, digits, - and _")
    servers = tuple(f"{url.scheme}://{_host(url)}:{url.port or PORT}" for url in urls)
    place = ",".join(servers) + ("" if bucket == BUCKET else f"/{bucket}")
    return Address(servers, bucket, place, {**_login(urls), **_secrets(settings)})


def _split(text: str, whole: str) -> SplitResult:
    try:
        url = urlsplit(text)
        good = url.scheme in SCHEMES and url.hostname and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise _wrong(whole, "nats://host:port or tls://host:port is needed, several with commas between")
    return url


def _wrong(url: str, remedy: str) -> SettingError:
    return SettingError(f"OTEL_PERF_SIGNALS_URL={without_password(url)!r}: {remedy}")


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host


def _login(urls: list[SplitResult]) -> dict[str, Any]:
    """Of the first URL that has one, for all servers: also for those that a cluster tells of."""
    for url in urls:
        if url.username is not None and url.password is not None:
            return {"user": unquote(url.username), "password": unquote(url.password)}
        if url.username:
            return {"token": unquote(url.username)}
    return {}


def _secrets(settings: SignalsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if settings.credentials:
        options["user_credentials"] = path = _readable("CREDENTIALS", settings.credentials)
        if not all(part in Path(path).read_bytes() for part in _CREDENTIALS):  # nats-py looks for them for ever
            raise SettingError(
                f"OTEL_PERF_SIGNALS_CREDENTIALS={path!r}: it has no user JWT and seed; nsc makes such files"
            )
    if settings.nkey:
        options["nkeys_seed"] = _readable("NKEY", settings.nkey)
    if settings.certificate or settings.client_certificate:
        options["tls"] = _context(settings)
    return options


def _readable(name: str, path: str) -> str:
    try:
        with Path(path).open("rb"):
            return path
    except OSError as error:
        raise SettingError(
            f"OTEL_PERF_SIGNALS_{name}={path!r}: {error.strerror}; name a file that can be read"
        ) from None


def _context(settings: SignalsSettings) -> Any:
    import ssl

    trusted = settings.certificate and _readable("CERTIFICATE", settings.certificate)
    own = settings.client_certificate and _readable("CLIENT_CERTIFICATE", settings.client_certificate)
    key = settings.client_key and _readable("CLIENT_KEY", settings.client_key)
    try:
        context = ssl.create_default_context(cafile=trusted or None)
        if own:
            context.load_cert_chain(own, key or None)
    except (ssl.SSLError, OSError) as error:
        raise SettingError(
            f"OTEL_PERF_SIGNALS_CERTIFICATE={trusted!r}, OTEL_PERF_SIGNALS_CLIENT_CERTIFICATE={own!r}: they cannot be"
            f" used ({error}); give PEM files, the key unencrypted"
        ) from None
    return context
