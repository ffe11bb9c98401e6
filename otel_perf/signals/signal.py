"""What stands on a board: a signal, who emitted it, and what is checked before it gets there."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace
from typing import Any, Final, Literal

from otel_perf.core.errors import SettingError
from otel_perf.core.records import record

READY: Final = "ready"
FAILED: Final = "failed"
State = Literal["ready", "failed"]

LONGEST_NAME: Final = 128
LONGEST_KEY: Final = 256
LONGEST_REASON: Final = 1024  # characters; the rest is cut off
LARGEST_PAYLOAD: Final = 64 * 1024  # bytes of JSON
_NAME: Final = re.compile(rf"[!-~]{{1,{LONGEST_NAME}}}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN: Final = 60  # characters of a wrong value


@record
class Producer:
    """One life of a process (or agent) that emits. ``identity`` is what stays the same over its lives."""

    identity: str
    uid: str
    service: str = ""
    agent: str = ""
    agent_id: str = ""
    host: str = ""
    pid: int = 0
    generation: int = 0  # which life it is, counted by the board; 0: it has not joined one

    def __str__(self) -> str:
        life = f", life {self.generation}" if self.generation else ""
        return f"{self.agent or self.identity} (pid {self.pid}{life})"


@record
class Signal:
    """A signal as it was emitted; ``seq`` is its place in the order of its board, 0 before it has one."""

    name: str
    key: str
    scope: str
    state: State
    reason: str
    payload: str  # JSON
    producer: Producer
    uid: str
    made_ns: int  # since the epoch, by its producer's clock
    ttl: float  # seconds; 0: it does not expire
    traceparent: str = ""  # of the span that emitted it
    mark: str = ""  # HMAC
    seq: int = 0

    @property
    def ready(self) -> bool:
        """Whether it says ready, and not failed."""
        return self.state == READY

    @property
    def value(self) -> Any:
        """The payload, decoded."""
        return json.loads(self.payload)


def checked_name(name: object) -> str:
    """``name`` if it can be a signal's. Raises ``SettingError``."""
    if type(name) is str and _NAME.fullmatch(name):
        return name
    raise SettingError(
        f"signal name {_shown(name)}: it must be 1 to {LONGEST_NAME} printable ASCII characters without spaces"
    )


def checked_key(key: object) -> str:
    """``key`` if it can tell signals of one name apart; a number becomes its text. Raises ``SettingError``."""
    text = str(key) if type(key) is int else key
    if type(text) is str and len(text) <= LONGEST_KEY and not _CONTROL.search(text):
        return text
    raise SettingError(f"signal key {_shown(key)}: it must be at most {LONGEST_KEY} characters on one line")


def checked_ttl(ttl: float | None) -> float:
    """Seconds until a signal expires; 0 for ``None``. Raises ``SettingError``."""
    if ttl is None:
        return 0.0
    if isinstance(ttl, int | float) and 0 < ttl <= 10 * 365 * 86_400:
        return float(ttl)
    raise SettingError(f"signal ttl {_shown(ttl)}: it must be more than 0 seconds and at most ten years, or None")


def checked_payload(payload: object) -> str:
    """``payload`` as JSON. Raises ``SettingError`` for what is none, or too large."""
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingError(f"signal payload {_shown(payload)}: it is not JSON ({error}); give plain values") from error
    if size > LARGEST_PAYLOAD:
        raise SettingError(f"signal payload of {size:,} bytes: at most {LARGEST_PAYLOAD:,}; give where it is found")
    return text


def shown_reason(reason: object) -> str:
    """A reason as one short line."""
    return _CONTROL.sub(" ", str(reason))[:LONGEST_REASON]


def uid_of(producer: Producer, idempotency: str | None, *content: str) -> str:
    """The same for what is emitted twice under one idempotency key by one identity, in whatever life.

    ``content``: scope, name, key and state, so that one key may be used for several.
    """
    if idempotency is None:
        return uuid.uuid4().hex
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([producer.identity, checked_key(idempotency), *content])).hex


def sealed(signal: Signal, secret: bytes) -> Signal:
    """``signal`` with its mark."""
    return replace(signal, mark=_mark(signal, secret))


def is_genuine(signal: Signal, secret: bytes) -> bool:
    """Whether somebody who has ``secret`` emitted it as it is. About 10 µs."""
    from hmac import compare_digest

    return compare_digest(signal.mark.encode(), _mark(signal, secret).encode())


def _mark(signal: Signal, secret: bytes) -> str:
    import hmac  # not by a start: it brings OpenSSL's hashes, 2 ms

    who = signal.producer
    content = [
        signal.name, signal.key, signal.scope, signal.state, signal.reason, signal.payload, signal.uid, signal.made_ns,
        signal.ttl, signal.traceparent, who.identity, who.uid, who.service, who.agent, who.agent_id, who.host, who.pid,
    ]  # fmt: skip
    return hmac.new(secret, json.dumps(content).encode(), "sha256").hexdigest()


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
