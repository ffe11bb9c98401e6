"""The way to a NATS session, with faults that a real server brings about too seldom."""

import asyncio
import time

import pytest

from otel_perf.core.errors import SignalError
from otel_perf.signals.nats_link import Link
from tests.e2e.support import wait_for


class Deaf:
    """Cannot connect, and loses its cancellation, as ``wait_for`` of Python 3.11 does now and then."""

    def __init__(self):
        self.attempts = 0

    async def connect(self):
        self.attempts += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionRefusedError("Connect call failed") from None

    async def close(self):
        pass


async def nothing(_session):
    return None


@pytest.fixture
def session():
    return Deaf()


@pytest.fixture
def link(session):
    made = Link("nats://here", (), lambda _ended: session, nothing)
    yield made
    made.close()


def test_a_cancellation_that_is_lost_ends_an_operation_all_the_same(link, session):
    """GIVEN a server that is away WHEN the time is over THEN it says why, and nothing is tried behind the caller's back."""
    with pytest.raises(SignalError, match="the signal board nats://here cannot be used: Connect call failed"):
        link.do(nothing, 0.2)
    attempts = session.attempts
    time.sleep(0.5)  # an attempt follows another within 0.1 s
    assert session.attempts == attempts


def test_a_cancellation_that_is_lost_keeps_nobody_from_closing(link, session):
    link._running().call_soon_threadsafe(link._ended)  # it is broken: another one is looked for
    thread = link._thread
    wait_for(lambda: session.attempts, what="it tries to be connected again")
    link.close()
    assert not thread.is_alive()
