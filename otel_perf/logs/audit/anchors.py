"""What is known of the trail from outside of its file: the head, checkpoints, a hash that somebody wrote down.

A chain cannot tell that its end is missing; these can, as far as they reach. They are read before the trail is: it may
go on meanwhile, but not back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_perf.core.errors import AuditError, SettingError
from otel_perf.logs.audit import chain, keys
from otel_perf.logs.audit.heads import CHECKPOINTS_FILE, HEAD_FILE, checkpoints_in, locked_head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from otel_perf.logs.audit.chain import Checkpoint
    from otel_perf.logs.audit.reader import Reader, SignerRow
    from otel_perf.logs.audit.verify import Verdict

MOST_NOTES: Final = 20


class Broken(Exception):  # noqa: N818 - not an error of ours: it is the answer
    """The first record that is not as it was written, and why; ``last`` where only a range can be told."""

    def __init__(self, seq: int, reason: str, last: int | None = None) -> None:
        super().__init__(reason)
        self.seq = seq
        self.last = seq if last is None else last
        self.reason = reason


class Expected(NamedTuple):
    """A record that must be there, as ``--expect-head SEQ:HASH`` names it."""

    seq: int
    hash: str


def expected(text: str) -> Expected:
    """Parse ``SEQ:HASH``. Raises ``SettingError``."""
    seq, _, digest = text.partition(":")
    try:
        if seq.isdecimal() and seq.isascii() and len(seq) < 20 and len(bytes.fromhex(digest)) == chain.HASH_BYTES:
            return Expected(int(seq), digest.lower())
    except ValueError:
        pass
    raise SettingError(
        f"{text!r} is no head; write SEQ:HASH with 64 hex digits, as otel-perf audit checkpoint shows it"
    )


class Anchors:
    """The anchors as they are now; made before the trail is read."""

    def __init__(
        self,
        folder: Path,
        *,
        heads: Sequence[Expected] = (),
        files: Sequence[Path] = (),
        open_end: bool = False,
    ) -> None:
        """``files`` hold checkpoints. With ``open_end`` a head that is missing is no fault.

        Raises ``SettingError`` for a file that was named and cannot be read, ``AuditError`` for one of the trail's.
        """
        self._heads = heads
        self._same = 0  # the newest record that an anchor has vouched for
        self._open_end = open_end
        self._head: Checkpoint | None = None
        head, usual = folder / HEAD_FILE, folder / CHECKPOINTS_FILE
        self._has_head = os.path.lexists(head)
        try:
            if head.is_file():  # anything else is none, and a pipe would be waited for
                with head.open("rb") as file:
                    self._head = locked_head(file.fileno())
            self._files = [_sized(usual)] if os.path.lexists(usual) else []
        except OSError as error:
            raise AuditError(f"the end of the trail is not known: {error}") from error
        try:
            self._files += [_sized(path) for path in files]
        except OSError as error:
            raise SettingError(f"the checkpoints cannot be read: {error}") from error

    def check(self, reader: Reader, verdict: Verdict, signers: Sequence[SignerRow]) -> None:
        """Compare each with the trail, whose chain is known to be whole. Raises ``Broken``."""
        self._same = verdict.removed
        for path, size in self._files:
            for number, checkpoint in checkpoints_in(path, size):
                if checkpoint is not None:
                    self._checkpoint(reader, verdict, signers, checkpoint, f"{path}, line {number}")
                elif len(verdict.notes) < MOST_NOTES:
                    verdict.notes.append(f"{path}, line {number} is no checkpoint")
        if self._head is not None:
            self._checkpoint(reader, verdict, signers, self._head, HEAD_FILE)
        for found in self._heads:
            self._compare(reader, verdict, found.seq, found.hash, "the head that is expected")
            if 0 < found.seq < verdict.removed:
                verdict.notes.append(f"the record {found.seq} of the expected head was removed by a signed cut")
        if self._head is None and not self._heads:
            self._no_head(verdict)

    def _no_head(self, verdict: Verdict) -> None:
        what, after = "is damaged" if self._has_head else "is missing", verdict.last + 1
        if not self._open_end:
            raise Broken(
                after,
                f"records may be missing from {after} on: {HEAD_FILE} {what}; --expect-head gives the end that you"
                " know, --open-end accepts that it is not known",
            )
        verdict.notes.append(f"{HEAD_FILE} {what}: whether records are missing at the end is not known")

    def _checkpoint(
        self, reader: Reader, verdict: Verdict, signers: Sequence[SignerRow], found: Checkpoint, where: str
    ) -> None:
        if found.trail != verdict.trail:
            raise Broken(1, f"{where} is of another trail: the file was replaced, or another trail begun")
        try:
            self._compare(reader, verdict, found.seq, found.hash, where)
        except Broken:
            # It speaks against the trail: is it one that the holder of the key made?
            if signers and not _is_signed(found, signers):
                raise Broken(
                    verdict.last + 1, f"{where}: no key of the trail signed this checkpoint: it was changed"
                ) from None
            raise

    def _compare(self, reader: Reader, verdict: Verdict, seq: int, digest: str, where: str) -> None:
        if seq > verdict.last:
            raise Broken(
                verdict.last + 1, f"records are missing at the end: {verdict.last + 1} to {seq}, says {where}", seq
            )
        if seq < verdict.removed:
            return  # what was removed is vouched for by the cut
        known = reader.trail()[2] if seq == verdict.removed else reader.hash_of(seq)
        if known is None or known.hex() != digest:
            raise Broken(
                min(self._same + 1, seq), f"records up to {seq} were others: {where} has another hash for {seq}", seq
            )
        self._same = max(self._same, seq)


def _sized(path: Path) -> tuple[Path, int]:
    """A file that can be read, and how long it is now."""
    if not path.is_file():
        raise OSError(f"{path} is no file" if os.path.lexists(path) else f"there is no {path}")
    with path.open("rb") as file:
        return path, os.fstat(file.fileno()).st_size


def _is_signed(found: Checkpoint, signers: Sequence[SignerRow]) -> bool:
    message = chain.seal_message(found.trail, found.seq, found.hash)
    return any(
        key.public.hex() == found.key and keys.check(key.public, bytes.fromhex(found.seal), message) for key in signers
    )
