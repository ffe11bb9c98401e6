"""One connection to a NATS server, and the watch of a bucket there. Lives on one event loop, and ends with either."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from otel_perf.signals.nats_address import Address

ATTEMPT: Final = 1.0  # seconds until a request is taken for lost
SILENCE: Final = 2.0  # seconds until a process that is asked is taken for gone; it may be in the midst of a call in C
REPLAY: Final = 1.0  # seconds without an entry until the watch is taken for lost
HEARTBEAT: Final = 30.0  # seconds
_WRONG_LAST: Final = (10071, 10164)  # "wrong last sequence": somebody else was first
_NO_STREAM: Final = 10059
_NAME_TAKEN: Final = 10058  # the bucket was made meanwhile, or by hand with other limits

NOT_FOUND: Final = 404
_REFUSALS: Final = ("authorization", "permissions", "certificate", "credentials")

Entry = tuple[str, bytes, int, int]  # key, value, number, nanoseconds since the epoch by the server's clock


class Session:
    """A connection. ``arrived`` is called with each entry of the bucket in order, ``ended`` once, when it is broken."""

    def __init__(
        self, address: Address, *, arrived: Callable[[Session, Entry], None], ended: Callable[[], None], most: int
    ) -> None:
        self.made = ""  # when the bucket was made
        self.answering: set[str] = set()  # for which lives
        self.error: BaseException | None = None  # what was last said to be wrong
        self._address = address
        self._arrived = arrived
        self._ended = ended
        self._most = most
        self._client = Client()
        self._stream = f"KV_{address.bucket}"
        self._prefix = f"$KV.{address.bucket}."
        self._next = 1  # the watch's own count
        self._seen = 0
        self._last = 0  # of the entries that were there when the watch began
        self._moved = asyncio.Event()
        self._clock = (0, 0)
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can be used."""
        return bool(self._client.is_connected)

    async def connect(self) -> None:
        """Connect, and make the bucket if there is none. Cleans up where it raises."""
        try:
            await self._client.connect(
                list(self._address.servers),
                name="otel-perf",
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,  # nats-py gives up for good where a server refuses: a new session is begun
                max_reconnect_attempts=1,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]
                connect_timeout=2,
                ping_interval=10,
                **self._address.options,
            )
            self.error = None
            self._js = self._client.jetstream(timeout=ATTEMPT)
            try:
                await self.last()
            except APIError as error:
                if error.err_code != _NO_STREAM:
                    raise
                await self._make()
        except BaseException as error:
            self._ended = _nothing
            await self.close()
            if isinstance(error, nats.errors.NoServersError) and self.error is not None:
                raise self.error from error  # that says why
            if isinstance(error, Exception) and not isinstance(error, nats.errors.Error | OSError):
                kind = type(error).__name__  # of nkeys, or where a file has not what it should; its text may be secret
                raise nats.errors.Error(f"the credentials or the nkey cannot be used ({kind})") from None
            raise

    async def _make(self) -> None:
        """As ``create_key_value`` does, with a bound on the number of entries besides."""
        try:
            await self._js.add_stream(
                name=self._stream,
                subjects=[f"{self._prefix}>"],
                max_msgs_per_subject=1,
                max_msgs=self._most,
                discard=api.DiscardPolicy.OLD,
                allow_direct=True,
                allow_rollup_hdrs=True,
                deny_delete=True,
                storage=api.StorageType.FILE,
            )
        except APIError as error:
            if error.err_code != _NAME_TAKEN:
                raise

    async def close(self) -> None:
        """End it."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), ATTEMPT)

    def drop_socket(self) -> None:
        """In a forked child: close its copy alone, or the server would take the parent for alive when it is not."""
        writer = getattr(getattr(self._client, "_transport", None), "_io_writer", None)
        found = getattr(writer and writer.get_extra_info("socket"), "_sock", None)
        if found is not None and found.fileno() >= 0:
            with contextlib.suppress(OSError):
                os.close(found.detach())

    async def _on_error(self, error: Exception) -> None:
        self.error = error

    async def _on_closed(self) -> None:
        ended, self._ended = self._ended, _nothing
        ended()

    # --- the watch ------------------------------------------------------------------------------------

    async def watch(self, seen: int, last: int) -> None:
        """Have what came later than ``seen`` arrive, up to ``last`` and whatever comes then."""
        self._seen, self._last = seen, last
        inbox = self._client.new_inbox()
        await self._client.subscribe(inbox, cb=self._on_entry)
        config = api.ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seen + 1,
            ack_policy=api.AckPolicy.NONE,
            filter_subject=f"{self._prefix}>",
            flow_control=True,
            idle_heartbeat=HEARTBEAT,
            num_replicas=1,
            mem_storage=True,
        )
        consumer = await self._js.add_consumer(self._stream, config)
        if not consumer.num_pending:
            self._caught_up()

    def _caught_up(self) -> None:
        self._seen = max(self._seen, self._last)  # what was deleted does not come

    async def until(self, seq: int) -> None:
        """Wait until that number has arrived. One that was deleted never does: then the watch begins anew."""
        while self._seen < seq:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        try:
            await asyncio.wait_for(self._moved.wait(), REPLAY)
        except TimeoutError:
            await self.close()
            raise

    async def _on_entry(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers:  # a heartbeat, or flow control that wants an answer
            reply = message.reply or headers.get("Nats-Consumer-Stalled")
            if reply:
                await self._client.publish(reply)
            return
        about = message.metadata
        if about.sequence.consumer != self._next:  # something was lost: a slow consumer, or another leader
            self._closing = asyncio.create_task(self.close())  # which cancels this task
            return
        self._next += 1
        self._seen = about.sequence.stream
        came = int(about.timestamp.timestamp() * 1e6) * 1000
        self._arrived(self, (message.subject.removeprefix(self._prefix), message.data, self._seen, came))
        if about.num_pending == 0:
            self._caught_up()
        self._moved.set()

    # --- requests ----------------------------------------------------------------------------------------

    async def last(self) -> int:
        """The number of the bucket's newest entry; tells the server's clock as well."""
        try:
            reply = await self._client.request(f"{api.DEFAULT_PREFIX}.STREAM.INFO.{self._stream}", timeout=ATTEMPT)
        except nats.errors.NoRespondersError as error:
            raise nats.errors.Error("there is no JetStream (nats-server -js)") from error
        told = json.loads(reply.data)
        if "error" in told:
            raise APIError(**{name: told["error"].get(name) for name in ("code", "description", "err_code")})
        self.made = told["created"]
        now = datetime.fromisoformat(told["ts"]).timestamp() if "ts" in told else time.time()  # before nats-server 2.10
        self._clock = (int(now * 1e9), time.monotonic_ns())
        return int(told["state"]["last_seq"])

    def now_ns(self) -> int:
        """The server's clock, as it was told last and has gone on since."""
        told, at = self._clock
        return told + time.monotonic_ns() - at

    async def put(self, key: str, value: bytes, expected: int | None = None) -> int | None:
        """Put it; its number, or ``None`` if the key's last number is not the ``expected`` one (0: there is none)."""
        headers = None if expected is None else {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(expected)}
        try:
            done = await self._js.publish(f"{self._prefix}{key}", value, headers=headers)
        except APIError as error:
            if error.err_code in _WRONG_LAST:
                return None
            raise
        return done.seq

    async def purge(self, keys: list[str]) -> None:
        """Take them out."""
        await asyncio.gather(*(self._js.purge_stream(self._stream, subject=f"{self._prefix}{key}") for key in keys))

    async def since(self, seq: int, limit: int) -> list[tuple[bytes, int]]:
        """Signals with higher numbers, each with its own."""
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            ack_policy=api.AckPolicy.NONE,
            num_replicas=1,
            mem_storage=True,
            inactive_threshold=10,
        )
        sub = await self._js.pull_subscribe(f"{self._prefix}s.>", stream=self._stream, config=config)
        try:
            left = min(limit, (await sub.consumer_info()).num_pending or 0)
            found: list[tuple[bytes, int]] = []
            while left > 0:
                some = await sub.fetch(min(left, 500), timeout=ATTEMPT)
                for message in some:
                    found.append((message.data, message.metadata.sequence.stream))
                    if message.metadata.sequence.consumer != len(found):  # one came too late for its request
                        raise nats.errors.TimeoutError
                left -= len(some)
            return found
        finally:
            with contextlib.suppress(Exception):
                await sub.unsubscribe()

    async def answer(self, subject: str, reply: Callable[[], bytes]) -> Any:
        """Answer requests on ``subject`` while the session lasts."""

        async def on_request(message: Msg) -> None:
            if message.reply:
                await self._client.publish(message.reply, reply())

        return await self._client.subscribe(f"{self._address.bucket}.{subject}", cb=on_request)

    async def ask(self, subject: str) -> bytes | None:
        """The answer on ``subject``; ``None`` if nobody is there, which the server knows at once, or says nothing."""
        try:
            reply = await self._client.request(f"{self._address.bucket}.{subject}", timeout=SILENCE)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return None
        return bytes(reply.data)


def _nothing() -> None:
    pass


def is_final(error: BaseException) -> bool:
    """Whether trying again is of no use: we are not let in, or want too much."""
    if isinstance(error, APIError):
        return 400 <= (error.code or 0) < 500 and error.code != NOT_FOUND
    said = str(error).lower()
    return isinstance(error, nats.errors.MaxPayloadError) or any(word in said for word in _REFUSALS)
