r"""The hash chain, and what is signed of it. Pure functions: a verifier in another language needs only these.

A record is ``seq``, ``time`` (ns since the epoch), ``kind``, ``body`` (canonical JSON), and two that follow from them::

    start   = SHA-256("otel-perf audit 1\n" + trail)                    trail: 32 hex digits, made with the file
    hash[n] = SHA-256(hash[n-1] + seal[n-1] + "seq time kind flag\n" + body)       hash[0] = start, seal[0] is empty
    seal[n] = Ed25519("otel-perf audit 1 seal\n" + "trail seq hash-in-hex")    of the last record of each commit

``flag`` is 1 for a record with a seal. So a seal cannot be taken away, and its bytes are covered by the next record.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Final, NamedTuple

FORMAT: Final = 1
EVENT: Final = "event"  # made by the app; the others are ours
OPEN: Final = "open"  # the first record of a process
CLOSE: Final = "close"  # its last, if it ended in good order
BEAT: Final = "beat"  # it lives, and has nothing else to say
KEY: Final = "key"  # the seals from this one on are by another key
CUT: Final = "cut"  # older records were removed
GAP: Final = "gap"  # the file did not hold what audit.head says it held
HASH_BYTES: Final = 32
SEAL_BYTES: Final = 64
KEY_BYTES: Final = 32


class Row(NamedTuple):
    """A record as it is stored."""

    seq: int
    time: int
    kind: str
    body: bytes
    hash: bytes
    seal: bytes | None


class Checkpoint(NamedTuple):
    """The end of the trail at some moment: all that is needed to prove later that it was so."""

    trail: str
    seq: int
    hash: str  # hex
    key: str  # the public key in hex, empty if the trail is not signed
    seal: str  # hex

    def line(self) -> str:
        """As one line of JSON, without its end."""
        return json.dumps(self._asdict())

    @classmethod
    def parse(cls, line: str | bytes) -> Checkpoint | None:
        """The checkpoint in a line; ``None`` if there is none, however hostile it is."""
        try:
            found = json.loads(line)
            made = cls(*(found[name] for name in cls._fields))
            for digits in (made.hash, made.key, made.seal):
                bytes.fromhex(digits)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        right = isinstance(made.trail, str) and type(made.seq) is int and 0 <= made.seq < 1 << 63
        return made if right else None


def start(trail: str) -> bytes:
    """What the first record is chained to."""
    return sha256(f"otel-perf audit {FORMAT}\n{trail}".encode()).digest()


def link(before: bytes, seal_before: bytes | None, seq: int, time: int, kind: str, sealed: bool, body: bytes) -> bytes:
    """The hash of a record. About 1 µs and 2 ns a byte."""
    header = f"{seq} {time} {kind} {int(sealed)}\n".encode()
    return sha256(b"".join((before, seal_before or b"", header, body))).digest()


def seal_message(trail: str, seq: int, digest: str) -> bytes:
    """What the seal of the record ``seq`` with the hash ``digest`` (hex) signs."""
    return f"otel-perf audit {FORMAT} seal\n{trail} {seq} {digest}".encode()


def key_message(trail: str, seq: int, public: str) -> bytes:
    """What the old key signs, to say that from ``seq`` on the key is ``public`` (hex)."""
    return f"otel-perf audit {FORMAT} key\n{trail} {seq} {public}".encode()
