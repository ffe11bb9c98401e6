"""Verifies a trail with the public key alone, record by record, in constant memory.

Chain first: one SHA-256 a record. The last seal of each key covers all before it, so that one signature a key is
checked; only where that one does not fit are the others, to find the first record that is not vouched for.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from otel_perf.logs.audit import chain, keys
from otel_perf.logs.audit.anchors import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import TypeAlias

    from otel_perf.logs.audit.anchors import Anchors
    from otel_perf.logs.audit.reader import Reader, SignerRow

    Rows: TypeAlias = Iterator[tuple[Any, ...]]
    Watch: TypeAlias = Callable[[Rows], Generator[tuple[Any, ...], None, None]]

_KINDS: Final = frozenset({chain.EVENT, chain.OPEN, chain.CLOSE, chain.BEAT, chain.KEY, chain.CUT, chain.GAP})
_NAMES: Final = {kind.encode(): kind for kind in _KINDS}


@dataclass(slots=True)
class Verdict:
    """What was found."""

    good: bool = True
    reason: str = ""
    first_bad: int | None = None
    last_bad: int | None = None  # where only a range can be told: it ends with the signature that does not fit
    trail: str = ""
    records: int = 0
    first: int = 0
    last: int = 0
    head: str = ""  # hash of the last record
    removed: int = 0  # records that a signed cut removed
    signed: bool = False
    key: str = ""  # the public key that was trusted
    keys: int = 0
    opened: int = 0  # processes that began to write, of the records that are there
    closed: int = 0  # and that ended in good order
    last_time: int = 0  # ns since the epoch
    notes: list[str] = field(default_factory=list)


class _Walk:
    """One pass over the records."""

    def __init__(self, reader: Reader, verdict: Verdict, signers: list[SignerRow], trail: str, watch: Watch) -> None:
        self._reader = reader
        self._watch = watch
        self._verdict = verdict
        self._signers = signers
        self._trail = trail
        self._key: SignerRow | None = None  # in force at the record that is looked at
        self._next_key = 0
        self._sealed: tuple[int, bytes, bytes] | None = None  # the newest seal: its record, that record's hash, itself
        self._cut: dict[str, Any] | None = None
        self.unsigned: Broken | None = None  # records at the end without a seal after them

    def run(self, cut: int, before: bytes, seal: bytes | None) -> None:
        """Follow the chain from the record ``cut``, whose hash and seal these are. Raises ``Broken``."""
        verdict, removed = self._verdict, (before.hex(), None if seal is None else seal.hex())
        verdict.last, verdict.first, verdict.head = cut, cut + 1, before.hex()
        while self._next_key < len(self._signers) and self._signers[self._next_key].seq <= cut:
            self._key = self._signers[self._next_key]
            self._next_key += 1
        rows = self._watch(self._reader.rows(cut))
        try:
            seq, before = self._follow_all(rows, cut, before, seal)
        finally:
            rows.close()
        verdict.head = before.hex()
        self._finish(cut, seq, removed)

    def _follow_all(self, rows: Rows, seq: int, before: bytes, seal: bytes | None) -> tuple[int, bytes]:
        """The number and the hash of the last record."""
        while True:
            try:
                row = next(rows, None)
            except sqlite3.Error as error:
                raise self._broken(seq + 1, f"the file is damaged here: {error}") from error
            if row is None:
                return seq, before
            if row[0] != seq + 1:
                last = f" to {row[0] - 1}" if row[0] > seq + 2 else ""
                raise self._broken(seq + 1, f"records are missing: {seq + 1}{last}")
            seq += 1
            before, seal = self._follow(row, before, seal)
            self._verdict.records += 1
            self._verdict.last = seq

    def _follow(self, row: tuple[Any, ...], before: bytes, seal_before: bytes | None) -> tuple[bytes, bytes | None]:
        seq, time, kind_bytes, body, digest, seal = row
        kind = _NAMES.get(kind_bytes) if isinstance(kind_bytes, bytes) else None
        if kind is None or type(time) is not int or type(body) is not bytes or type(digest) is not bytes:
            raise self._broken(seq, "the record was changed: it has parts that no record has")
        if seal is not None and (type(seal) is not bytes or len(seal) != chain.SEAL_BYTES):
            raise self._broken(seq, "the record was changed: its signature is none")
        if chain.link(before, seal_before, seq, time, kind, seal is not None, body) != digest:
            raise self._unchained(seq)
        if kind != chain.EVENT:
            self._special(seq, kind, body)
        if self._next_key < len(self._signers) and self._signers[self._next_key].seq == seq:
            raise self._broken(seq, "the record was changed: it announced a key, which the file still names")
        if seal is not None:
            if self._key is None:
                raise self._broken(seq, "the record has a signature before there was a key")
            self._sealed = (seq, digest, seal)
        self._verdict.last_time = time
        return digest, seal

    def _special(self, seq: int, kind: str, body: bytes) -> None:
        """Records that say something of the trail itself."""
        verdict = self._verdict
        if kind == chain.OPEN:
            verdict.opened += 1
        elif kind == chain.CLOSE:
            verdict.closed += 1
        elif kind == chain.KEY:
            self._change_key(seq, body)
        elif kind == chain.CUT:
            self._cut = _parsed(body)
        elif kind == chain.GAP:
            found = _parsed(body)
            head = found.get("head")
            lost = f"; the head said {head.get('seq')}" if isinstance(head, dict) else ""
            raise self._broken(
                seq,
                f"the process that wrote this record found the end of the trail changed: {found.get('why')},"
                f" the file ended with {found.get('found')}{lost}",
            )

    def _change_key(self, seq: int, body: bytes) -> None:
        known = self._signers[self._next_key] if self._next_key < len(self._signers) else None
        found = _parsed(body)
        consent = None if known is None or known.consent is None else known.consent.hex()
        if known is None or (known.seq, known.public.hex(), consent) != (
            seq,
            found.get("public"),
            found.get("consent"),
        ):
            raise self._broken(seq, "the key that the record announces is not the one that the file names")
        self._check_seal()
        follows_cut = seq - 1 == self._verdict.removed  # the cut vouches for what it removed
        if self._key is not None and not follows_cut and (self._sealed is None or self._sealed[0] != seq - 1):
            raise self._broken(seq - 1, "the last record before a new key is not signed")
        self._key, self._sealed = known, None
        self._next_key += 1

    def _check_seal(self) -> None:
        """Check the newest seal. Raises ``Broken`` at the first record that none vouches for."""
        if self._sealed is not None and self._key is not None:
            seq, digest, seal = self._sealed
            if not keys.check(self._key.public, seal, chain.seal_message(self._trail, seq, digest.hex())):
                raise self._first_unsigned(seq)

    def _first_unsigned(self, until: int) -> Broken:
        """Look for the first seal that does not fit; every one before it does."""
        key, following, good = None, 0, self._verdict.first - 1
        for seq, _, _, _, digest, seal in self._reader.rows():
            while following < len(self._signers) and self._signers[following].seq <= seq:
                key, following = self._signers[following], following + 1
            if seal is None or key is None:
                continue
            if seq >= until or not keys.check(key.public, seal, chain.seal_message(self._trail, seq, digest.hex())):
                until = seq
                break
            good = seq
        what = "the record was" if good + 1 == until else f"one or more of the records {good + 1} to {until} were"
        return Broken(good + 1, f"{what} changed: the signature at {until} does not fit", until)

    def _broken(self, seq: int, reason: str) -> Broken:
        """The answer: ``seq``, or a record before it that is chained well but not signed by the key."""
        try:
            self._check_seal()
        except Broken as earlier:
            return earlier
        return Broken(seq, reason)

    def _unchained(self, seq: int) -> Broken:
        """The hash of ``seq`` does not fit: it was changed, or the seal before it, which it covers."""
        return self._broken(seq, "the record was changed: its hash does not fit it and the record before")

    def _finish(self, cut: int, seq: int, removed: tuple[str, str | None]) -> None:
        self._check_seal()
        if self._key is not None and (self._sealed is None or self._sealed[0] != seq):
            after = self._key.seq if self._sealed is None else self._sealed[0] + 1
            self.unsigned = Broken(after, f"records are not signed, though the trail is: {after} to {seq}", seq)
        if self._next_key < len(self._signers):
            raise Broken(seq + 1, f"records are missing: the file names a key from {self._signers[self._next_key].seq}")
        through = self._cut.get("through", 0) if self._cut is not None else 0
        if through != cut:
            raise Broken(
                through + 1 if isinstance(through, int) else 1,
                f"records are missing at the beginning: up to {cut}, and the cuts that are signed end with {through}",
            )
        if (stray := self._reader.stray(cut)) is not None:
            raise Broken(max(1, stray), f"the file holds a record {stray}, which is none of the trail")
        if self._cut is not None and (self._cut.get("hash"), self._cut.get("seal")) != removed:
            raise Broken(cut + 1, "the cut that is signed names another record than the file does")


def _unwatched(rows: Rows) -> Generator[tuple[Any, ...], None, None]:
    yield from rows


def verify(reader: Reader, trusted: bytes | None, anchors: Anchors, watch: Watch = _unwatched) -> Verdict:
    """Judge the trail; ``trusted`` is the public key that must have signed it, or have agreed to the key that did.

    The records pass through ``watch``, which may say how far they are.

    Raises ``MissingExtraError`` where there are signatures and nothing to check them with.
    """
    verdict = Verdict()
    try:
        _verify(reader, trusted, anchors, verdict, watch)
    except Broken as broken:
        verdict.good, verdict.reason = False, broken.reason
        verdict.first_bad, verdict.last_bad = broken.seq, broken.last
    except sqlite3.Error as error:
        verdict.good, verdict.reason = False, f"the file is damaged: {error}"
        verdict.first_bad = verdict.last_bad = verdict.last + 1
    return verdict


def _verify(reader: Reader, trusted: bytes | None, anchors: Anchors, verdict: Verdict, watch: Watch) -> None:
    if not reader.has_our_schema():
        raise Broken(1, "the tables of the file are not those that otel-perf makes")
    name, cut, before, seal = reader.trail()
    try:
        trail = str(name, "ascii")
        right = type(cut) is int and cut >= 0 and type(before) is bytes and (seal is None or type(seal) is bytes)
    except (TypeError, ValueError):
        trail, right = "", False
    if not right or (cut == 0 and (before, seal) != (chain.start(trail), None)):
        raise Broken(1, "the file does not say what the first record is chained to")
    verdict.trail, verdict.removed = trail, cut
    signers = reader.signers()
    _check_keys(signers, trail, trusted, verdict)
    walk = _Walk(reader, verdict, signers, trail, watch)
    walk.run(cut, before, seal)
    if trusted is not None and not signers and verdict.last:
        raise Broken(cut + 1, "the trail is not signed, and there is a key that should have signed it")
    try:
        anchors.check(reader, verdict, signers)
    except Broken as broken:
        if walk.unsigned is None or broken.seq > verdict.last:  # a tail that was cut within a commit
            raise
    if walk.unsigned is not None:
        raise walk.unsigned


def _check_keys(signers: list[SignerRow], trail: str, trusted: bytes | None, verdict: Verdict) -> None:
    """Every key after the first was agreed to by the one before it, and the trusted one is among them."""
    for key in signers:
        if type(key.public) is not bytes or len(key.public) != chain.KEY_BYTES:
            raise Broken(key.seq, "the file names a key that is none")
    if signers and signers[0].consent is not None:
        raise Broken(signers[0].seq, "the first key of the file is not the first of the trail")
    for before, key in pairwise(signers):
        message = chain.key_message(trail, key.seq, key.public.hex())
        if type(key.consent) is not bytes or not keys.check(before.public, key.consent, message):
            raise Broken(key.seq, "the key from this record on is not signed by the key before it")
    verdict.signed, verdict.keys = bool(signers), len(signers)
    if trusted is not None:
        verdict.key = trusted.hex()
        if signers and all(key.public != trusted for key in signers):
            raise Broken(1, f"the trail is signed by other keys than {trusted.hex()}")
    elif signers:
        verdict.key = signers[-1].public.hex()
        verdict.notes.append("no key was given: checked with the key that the file names; --key checks with yours")
    else:
        verdict.notes.append("unsigned: whoever can write the file can compute such a chain anew")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
