"""What a bucket of NATS holds, as its watch tells it: who lives, and the newest signal of each. Not thread-safe."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from otel_perf.signals.board import Heard
from otel_perf.signals.signal import Producer, Signal
from otel_perf.signals.tables import HERE, LOST, PRODUCERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container

_PLAIN: Final = re.compile(rb"[^A-Za-z0-9_-]")
_LONGEST: Final = 200  # characters of a key's part; the server takes 4 KB of one line
_decode_signal: Final = msgspec.json.Decoder(Signal).decode

Latch = tuple[str, str, str]  # scope, name and key


@dataclass(frozen=True, slots=True)
class Record:
    """A life as it stands in the bucket."""

    producer: Producer
    state: str
    at_ns: int = 0  # when it was last heard of, by the server's clock; 0: when this was written


@dataclass(slots=True)
class Life:
    """A life as the mirror knows it."""

    producer: Producer
    state: str
    seq: int  # of its record
    at_ns: int


@dataclass(frozen=True, slots=True)
class Held:
    """The newest signal of a latch by one life."""

    signal: Signal
    seq: int
    came_ns: int  # by the server's clock


_decode_record: Final = msgspec.json.Decoder(Record).decode


def part(text: str) -> str:
    """``text`` as a part of a key, where letters, digits, ``-_=/`` are allowed. Nobody reads it back."""
    if text == "":
        return "="
    raw = text.encode("utf-8", "surrogatepass")
    made = _PLAIN.sub(lambda found: f"={found[0].hex()}".encode(), raw).decode()
    return made if len(made) <= _LONGEST else f"=={hashlib.sha256(raw).hexdigest()}"


def life_key(producer: Producer) -> str:
    """Of one life's record: who makes it first has this generation."""
    return f"l.{part(producer.identity)}.{producer.generation}"


def signal_key(signal: Signal) -> str:
    """Of one signal: the same for what is put twice."""
    return f"s.{part(signal.scope)}.{part(signal.name)}.{part(signal.key)}.{part(signal.uid)}"


class Mirror:
    """Of all signals their numbers, and those whole that may be current."""

    def __init__(self, kept: int, judge: Callable[[Signal], bool] | None = None) -> None:
        self.kept = kept
        self._judge = judge
        self.seen = 0  # the number up to which it knows all
        self.lives: dict[str, Life] = {}
        self._newest: dict[str, int] = {}  # generation by identity
        self._signals: dict[str, tuple[int, Latch, str]] = {}  # by uid, in order: number, latch, uid of the life
        self._latches: dict[Latch, dict[str, Held]] = {}  # and by the uid of the life
        self._keys: dict[tuple[str, str], set[str]] = {}  # by scope and name

    # --- what comes --------------------------------------------------------------------------------

    def apply(self, key: str, value: bytes, seq: int, came_ns: int) -> None:
        """One entry. What others have written there and is none of ours is passed over."""
        if seq <= self.seen:
            return
        self.seen = seq
        try:
            if key.startswith("l."):
                self._apply_life(_decode_record(value), seq, came_ns)
            elif key.startswith("s."):
                self._apply_signal(_decode_signal(value), seq, came_ns)
        except msgspec.MsgspecError:
            pass

    def _apply_life(self, record: Record, seq: int, came_ns: int) -> None:
        who = record.producer
        self.lives[who.uid] = Life(who, record.state, seq, record.at_ns or came_ns)
        self._newest[who.identity] = max(self._newest.get(who.identity, 0), who.generation)

    def _apply_signal(self, signal: Signal, seq: int, came_ns: int) -> None:
        if self._judge is not None and not self._judge(signal):
            return
        latch, life = (signal.scope, signal.name, signal.key), signal.producer.uid
        self._drop(signal.uid)
        self._signals[signal.uid] = seq, latch, life
        self._latches.setdefault(latch, {})[life] = Held(signal, seq, came_ns)
        self._keys.setdefault(latch[:2], set()).add(signal.key)
        known = self.lives.get(life)
        if known is not None:
            known.at_ns = max(known.at_ns, came_ns)
        if len(self._signals) > self.kept + 512:  # whoever puts has dropped them in the bucket
            for uid in self._surplus():
                self._drop(uid)

    def _drop(self, uid: str) -> None:
        if uid not in self._signals:
            return
        seq, latch, life = self._signals.pop(uid)
        if not self._is_newest(seq, latch, life):
            return
        del self._latches[latch][life]
        if not self._latches[latch]:
            del self._latches[latch]
            keys = self._keys[latch[:2]]
            keys.discard(latch[2])
            if not keys:
                del self._keys[latch[:2]]

    # --- what is asked ------------------------------------------------------------------------------

    def generation(self, identity: str) -> int:
        """The newest one; 0 if there is none."""
        return self._newest.get(identity, 0)

    def is_trusted(self, life: str) -> bool:
        """Not one that was lost and has come back since."""
        known = self.lives.get(life)
        if known is None:
            return False
        return known.state != LOST or known.producer.generation == self.generation(known.producer.identity)

    def is_here(self, life: str) -> bool:
        """Whether it is known, and said to be here."""
        return life in self.lives and self.lives[life].state == HERE

    def earlier(self, producer: Producer) -> list[Life]:
        """Lives of the same identity, with lower generations, that did not end as far as is known."""
        return [
            life
            for life in self.lives.values()
            if life.state == HERE
            and life.producer.identity == producer.identity
            and life.producer.generation < producer.generation
        ]

    def number(self, uid: str) -> tuple[int, bool] | None:
        """The number of the signal with this uid, and whether it is trusted."""
        known = self._signals.get(uid)
        return None if known is None else (known[0], self.is_trusted(known[2]))

    def current(self, scope: str, names: Collection[str], now_ns: int) -> list[Signal]:
        """The newest trusted ones that have not expired."""
        found = []
        for name in set(names):
            for key in self._keys.get((scope, name), ()):
                held = [h for life, h in self._latches[scope, name, key].items() if self.is_trusted(life)]
                newest = max(held, key=lambda h: h.seq, default=None)
                if newest is not None and not _is_over(newest, now_ns):
                    found.append(replace(newest.signal, seq=newest.seq))
        return sorted(found, key=lambda signal: signal.seq)

    def said_by(self, lives: Container[str]) -> list[Signal]:
        """The newest signals of these lives, in order."""
        held = [h for by in self._latches.values() for life, h in by.items() if life in lives]
        return [h.signal for h in sorted(held, key=lambda h: h.seq)]

    def producers(self) -> list[Heard]:
        """The last that was heard of first."""
        lives = sorted(self.lives.values(), key=lambda life: (life.at_ns, life.seq), reverse=True)
        return [Heard(life.producer, life.state, life.at_ns) for life in lives[:PRODUCERS]]

    # --- what is too much ----------------------------------------------------------------------------

    def forgotten(self, limit: int) -> list[Life]:
        """Where there are too many lives, those that were not heard of for longest: they may have ended unseen."""
        too_many = min(limit, len(self.lives) - PRODUCERS)
        here = (life for life in self.lives.values() if life.state == HERE)
        return sorted(here, key=lambda life: life.at_ns)[:too_many] if too_many > 0 else []

    def surplus(self) -> dict[str, str]:
        """What has to give way, keys by uid: the oldest that are not the newest of their life and latch go first."""
        keys = {uid: ".".join(("s", *map(part, (*self._signals[uid][1], uid)))) for uid in self._surplus()}
        too_many = len(self.lives) - PRODUCERS
        if too_many > 0:
            used = {life for _, _, life in self._signals.values()}
            ended = [x for x in self.lives.values() if x.state != HERE and x.producer.uid not in used]
            for life in sorted(ended, key=lambda life: life.seq)[:too_many]:
                keys[life.producer.uid] = life_key(life.producer)
        return keys

    def forget(self, uid: str) -> None:
        """It is no longer in the bucket."""
        self._drop(uid)
        life = self.lives.pop(uid, None)
        if life is not None and self._newest[life.producer.identity] == life.producer.generation:
            del self._newest[life.producer.identity]

    def _surplus(self) -> list[str]:
        too_many = len(self._signals) - self.kept
        if too_many <= 0:
            return []
        old = (uid for uid, (seq, latch, life) in self._signals.items() if not self._is_newest(seq, latch, life))
        chosen = list(islice(old, too_many))
        if len(chosen) < too_many:  # names without end
            left = set(chosen)
            chosen += [uid for uid in self._signals if uid not in left][: too_many - len(chosen)]
        return chosen

    def _is_newest(self, seq: int, latch: Latch, life: str) -> bool:
        held = self._latches.get(latch, {}).get(life)
        return held is not None and held.seq == seq


def encoded(value: Any) -> bytes:
    """A signal or a record for the bucket."""
    return msgspec.json.encode(value)


def _is_over(held: Held, now_ns: int) -> bool:
    return held.signal.ttl > 0 and now_ns - held.came_ns > held.signal.ttl * 1e9
