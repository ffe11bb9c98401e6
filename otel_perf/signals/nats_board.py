"""A board in a bucket of NATS JetStream: for all processes of all machines that reach its servers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from otel_perf.signals.board import KEPT, Wait
from otel_perf.signals.nats_link import PATIENCE, REPEATABLE, Link
from otel_perf.signals.nats_mirror import Mirror, Record, encoded, life_key, part, signal_key
from otel_perf.signals.nats_session import Session
from otel_perf.signals.signal import Producer, Signal
from otel_perf.signals.tables import HERE, LEFT, LOST, PRODUCERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from otel_perf.signals.board import Heard
    from otel_perf.signals.nats_address import Address
    from otel_perf.signals.nats_mirror import Life
    from otel_perf.signals.nats_session import Entry

T = TypeVar("T")

REPLAY: Final = 60.0  # seconds that a full board may take when it is opened; 3 s at most are usual
LEAVING: Final = 1.0  # seconds
HISTORY: Final = 10_000  # signals that are looked through for who was last heard of
EVERY: Final = 256  # signals after which is looked whether there are too many


class NatsBoard:
    """See :class:`otel_perf.signals.board.Board`. One or two round trips an operation, tried again for 5 s.

    Signals and lives are entries of the bucket; a watch brings them into a mirror here, which answers. Nothing rests
    on the clock of a machine but the server's. A life is alive while it answers: its process is asked when the same
    identity begins another life, and where no connection listens any more the server says so at once. A life that was
    taken for lost while it could not answer (a partition, a restarted server) says again that it is here.
    """

    def __init__(
        self, address: Address, *, kept: int = KEPT, judge: Callable[[Signal], bool] | None = None,
        patience: float | None = None,
    ) -> None:  # fmt: skip
        """What is not by ``judge`` does not get into the mirror. ``patience``: seconds for a server that is away."""
        self.place = address.place
        self.renewed = 0
        self._address = address
        self._kept = kept
        self._judge = judge
        self._reset()
        try:
            self._do(_nothing, patience)  # what is wrong with the place is told now
        except BaseException:
            self._link.close()
            raise

    def _reset(self) -> None:
        self._lock = threading.RLock()  # of what the link's thread shares with others; held across a fork
        self._condition = threading.Condition(self._lock)
        secrets = tuple(self._address.options[name] for name in ("password", "token") if name in self._address.options)
        self._link = Link(self.place, secrets, self._make, self._begin)
        self._mirror = Mirror(self._kept, self._judge)
        self._watched: Session | None = None
        self._made = ""  # when the bucket was
        self._own: dict[str, Producer] = {}  # lives that began here, by uid
        self._said: list[Signal] = []  # is to be said again in a bucket that was made anew
        self._insisting = False
        self._waits: dict[str, Wait] = {}
        self._knows = False  # what was there when it was opened
        self._version = 0
        self._interrupted = False

    # --- the contract ------------------------------------------------------------------------------

    def join(self, producer: Producer) -> Producer:
        """See the contract. Takes up to 2 s where an earlier life neither answers nor is known to be gone."""
        return self._do(lambda session: self._join(session, producer))

    def leave(self, producer: Producer) -> None:
        """See the contract. Tried for 1 s: a program that ends does not wait long for a server that is away."""
        self._do(lambda session: self._leave(session, producer), LEAVING)

    def put(self, signal: Signal) -> Signal:
        """See the contract."""
        return self._do(lambda session: self._put(session, signal))

    def current(
        self, scope: str, names: Collection[str], judge: Callable[[Signal], bool] | None = None
    ) -> Sequence[Signal]:
        """See the contract. With the same judge as at the beginning."""
        now_ns = self._do(self._fresh)
        with self._lock:
            found = self._mirror.current(scope, names, now_ns)
        return [signal for signal in found if judge is None or judge(signal)]

    def said(self, scope: str, names: Collection[str]) -> Sequence[Signal]:
        """See the contract. Of the last 10,000."""
        last = self._do(lambda session: session.last())
        newest: dict[tuple[str, str], Signal] = {}
        for signal in self.since(max(0, last - HISTORY), HISTORY):
            if signal.scope == scope and signal.name in names:
                newest[signal.name, signal.key] = signal
        return list(newest.values())

    def since(self, seq: int, limit: int = 1000) -> Sequence[Signal]:
        """See the contract. What was put twice has its last number."""
        entries = self._do(lambda session: session.since(seq, limit))
        found = []
        for value, number in entries:
            with contextlib.suppress(msgspec.MsgspecError):  # none of ours
                found.append(replace(msgspec.json.decode(value, type=Signal), seq=number))
        return found

    def producers(self) -> Sequence[Heard]:
        """See the contract."""
        self._do(self._fresh)
        with self._lock:
            return self._mirror.producers()

    def note(self, wait: Wait) -> None:
        """See the contract. It stays here: who asks is answered."""
        with self._lock:
            self._waits[wait.uid] = wait

    def forget(self, wait: Wait) -> None:
        """See the contract."""
        with self._lock:
            self._waits.pop(wait.uid, None)

    def waits(self) -> Sequence[Wait]:
        """See the contract. Asks every life; takes up to 2 s where one does not answer."""
        return sorted(self._do(self._all_waits), key=lambda wait: wait.since_ns)

    def changed(self, mark: object, timeout: float) -> object:
        """See the contract. The watch tells: nothing is polled."""
        if mark is None:
            self._do(_nothing)  # there is a watch
        with self._lock:
            self._condition.wait_for(lambda: self._version != mark or self._interrupted, timeout)
            self._interrupted = False
            return self._version

    def interrupt(self) -> None:
        """See the contract."""
        with self._lock:
            self._interrupted = True
            self._condition.notify_all()

    def close(self) -> None:
        """See the contract. For good."""
        self._link.close()
        self.interrupt()

    # --- lives ---------------------------------------------------------------------------------------

    async def _join(self, session: Session, producer: Producer) -> Producer:
        await self._answer(session, producer)  # first: another one may ask as soon as it is there
        await self._fresh(session)
        known = self._mirror.lives.get(producer.uid)
        joined = known.producer if known is not None and known.state == HERE else None  # an attempt that went through
        while joined is None:
            wanted = replace(producer, generation=self._mirror.generation(producer.identity) + 1)
            if await session.put(life_key(wanted), encoded(Record(wanted, HERE)), expected=0) is not None:
                joined = wanted
            await self._fresh(session)
        self._own[joined.uid] = joined
        await self._mark_lost(session, self._mirror.earlier(joined))
        await self._insist(session)
        return joined

    async def _mark_lost(self, session: Session, lives: Sequence[Life]) -> None:
        """Those of them that do not answer."""
        answers = await asyncio.gather(*(self._ask(session, life) for life in lives))
        for life, answer in zip(lives, answers, strict=True):
            if answer is None:  # expected: it may have left meanwhile
                lost = Record(life.producer, LOST, life.at_ns)
                await session.put(life_key(life.producer), encoded(lost), expected=life.seq)

    async def _leave(self, session: Session, producer: Producer) -> None:
        joined = self._own.get(producer.uid)
        if joined is not None:
            await session.put(life_key(joined), encoded(Record(joined, LEFT)))
            del self._own[producer.uid]
        with self._lock:
            self._waits = {uid: wait for uid, wait in self._waits.items() if wait.producer.uid != producer.uid}

    async def _insist(self, session: Session) -> None:
        """Our lives are here, whatever others thought of them."""
        for producer in list(self._own.values()):
            known = self._mirror.lives.get(producer.uid)
            if known is None:  # the bucket was made anew, where somebody may have this generation now
                if await session.put(life_key(producer), encoded(Record(producer, HERE)), expected=0) is None:
                    await self._join(session, producer)
            elif known.state == LOST:
                await session.put(life_key(producer), encoded(Record(producer, HERE)))

    async def _answer(self, session: Session, producer: Producer) -> None:
        def waits() -> bytes:
            with self._lock:
                return msgspec.json.encode([w for w in self._waits.values() if w.producer.uid == producer.uid])

        if producer.uid not in session.answering:
            session.answering.add(producer.uid)
            await session.answer(part(producer.uid), waits)

    async def _ask(self, session: Session, life: Life) -> bytes | None:
        return await session.ask(part(life.producer.uid))

    async def _all_waits(self, session: Session) -> list[Wait]:
        await self._fresh(session)
        here = [life for life in self._mirror.lives.values() if life.state == HERE]
        answers = await asyncio.gather(*(self._ask(session, life) for life in here))
        return [wait for answer in answers if answer for wait in _waits(answer)]

    # --- signals --------------------------------------------------------------------------------------

    async def _put(self, session: Session, signal: Signal) -> Signal:
        if signal.producer.uid not in self._own and signal.producer.uid not in self._mirror.lives:
            await self._join(session, signal.producer)
        await self._insist(session)
        key, value = signal_key(signal), encoded(signal)
        known = self._mirror.number(signal.uid)
        seq = None if known else await session.put(key, value, expected=0)
        if seq is None:  # it is there, or was
            await self._fresh(session)
            known = self._mirror.number(signal.uid)
            if known is not None and known[1]:
                return replace(signal, seq=known[0])
            seq = await session.put(key, value)
        assert seq is not None
        if seq % EVERY == 0:
            await self._shrink(session)
        return replace(signal, seq=seq)

    async def _shrink(self, session: Session) -> None:
        with contextlib.suppress(*REPEATABLE):  # the signal is there; the next one to look makes room
            await self._fresh(session)
            await self._mark_lost(session, self._mirror.forgotten(EVERY))
            with self._lock:
                surplus = self._mirror.surplus()
            await session.purge(list(surplus.values()))
            with self._lock:
                for uid in surplus:
                    self._mirror.forget(uid)

    def _do(self, work: Callable[[Session], Awaitable[T]], patience: float | None = None) -> T:
        if not self._knows:
            self._link.do(_nothing, patience)
            self._link.do(self._fresh, REPLAY)
            self._knows = True
        return self._link.do(work, patience)

    # --- the watch --------------------------------------------------------------------------------------

    def _make(self, ended: Callable[[], None]) -> Session:
        most = self._kept + self._kept // 2 + 2 * PRODUCERS
        return Session(self._address, arrived=self._arrived, ended=ended, most=most)

    async def _begin(self, session: Session) -> None:
        last = await session.last()
        if self._made not in {"", session.made} or last < self._mirror.seen:  # the server has lost the bucket
            with self._lock:
                self._said = self._mirror.said_by(self._own)
                self._mirror = Mirror(self._kept, self._judge)
                self.renewed += 1
        self._made, self._watched = session.made, session
        await session.watch(self._mirror.seen, last)
        if self._own:
            for producer in self._own.values():
                await self._answer(session, producer)
            await self._fresh(session)
            await self._insist(session)
            while self._said:
                await session.put(signal_key(self._said[0]), encoded(self._said[0]), expected=0)
                del self._said[0]
        self._tell()

    def _arrived(self, session: Session, entry: Entry) -> None:
        if session is not self._watched:
            return
        with self._lock:
            self._mirror.apply(*entry)
        self._tell()
        if not self._insisting and any(not self._mirror.is_here(uid) for uid in self._own):
            self._insisting = True
            self._link.keep(self._insist_soon())

    async def _insist_soon(self) -> None:
        try:
            with contextlib.suppress(*REPEATABLE):  # else with the next session
                await self._insist(await self._link.session())
        finally:
            self._insisting = False

    def _tell(self) -> None:
        with self._lock:
            self._version += 1
            self._condition.notify_all()

    async def _fresh(self, session: Session) -> int:
        """Have the mirror know what is there now; the server's clock."""
        await session.until(await session.last())
        return session.now_ns()

    # --- forks ------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nobody be in the midst of something."""
        self._lock.acquire(timeout=PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave all to the parent, and begin anew at the next use."""
        self._link.abandon()
        self._reset()


class _Wait(msgspec.Struct):
    """A wait as it is told: ``Wait``, with what is checked when it is read."""

    uid: str
    producer: Producer
    scope: str
    names: tuple[str, ...]
    then: tuple[str, ...]
    since_ns: int


def _waits(answer: bytes) -> list[Wait]:
    try:
        told = msgspec.json.decode(answer, type=list[_Wait])
    except msgspec.MsgspecError:  # none of ours
        return []
    return [Wait(w.uid, w.producer, w.scope, w.names, w.then, w.since_ns) for w in told]


async def _nothing(_session: Session) -> None:
    """Only be connected."""
