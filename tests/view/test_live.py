"""What open pages are told: how far the index is, and what keeps something from being shown."""

import asyncio
import os
import shutil
import signal

import msgspec
import pytest

from otel_perf.view import live
from tests.e2e.support import wait_for
from tests.view.test_index import build, one_span, put
from tests.view.test_index_stores import damage, fill


@pytest.fixture
def told():
    """What pages are told of stores, without the process that builds."""
    made = []

    def told(index, *homes):
        made.append(live.Live(index, homes))
        return msgspec.json.decode(made[-1]._look_or_say())

    yield told
    for one in made:
        one._reading.close()


def test_a_damaged_store_is_said_and_hides_no_other(tmp_path, told):
    first, second, path = tmp_path / "a", tmp_path / "b", tmp_path / "index.db"
    for number in range(30):
        put(first, "traces", one_span(tid=number.to_bytes(16), name="x" * 5_000))
    fill(second, "b")
    damage(first)
    build(path, first, second)
    said = told(path, first, second)
    assert str(first) in said["problem"]
    assert "cannot be read" in said["problem"]
    assert said["items"]["traces"] >= 1
    shutil.rmtree(first)
    fill(first, "mended")
    build(path, first, second)
    said = told(path, first, second)
    assert said["problem"] == ""
    assert said["items"]["traces"] == 2
    assert said["behind"] == 0


def test_batches_that_are_left_out_are_said(tmp_path, told):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", b"\xff\xffno protobuf")
    fill(home, "a")
    build(path, home)
    assert told(path, home)["problem"].startswith(f"1 batches of {home} cannot be shown")


def test_that_the_indexer_ended_is_said_until_it_runs_again(tmp_path, monkeypatch):
    """GIVEN an indexer that was killed WHEN it has run again for a while THEN nobody is told any more."""
    monkeypatch.setattr(live, "AGAIN", 0.2)
    home = tmp_path / "home"
    fill(home, "a")
    indexer = live.Indexer(home / "index.db", [home])
    try:
        indexer.keep()
        first = indexer._process
        os.kill(first.pid, signal.SIGKILL)
        first.wait(30)
        indexer.keep()
        assert "ended with -9, and is started again" in indexer.problem

        def recovered():
            indexer.keep()
            return not indexer.problem

        wait_for(recovered, what="the next one")
        assert indexer._process.poll() is None
        assert indexer._process.pid != first.pid
    finally:
        indexer.stop()


def test_pages_are_told_when_an_index_was_made_anew(tmp_path):
    """GIVEN a page WHEN the store is deleted while it looks THEN it is told that there is nothing any more."""
    home = tmp_path / "home"
    fill(home, "a")

    async def scene():
        one, stop = live.Live(home / "index.db", [home]), asyncio.Event()
        looking = asyncio.create_task(one.run(stop))

        async def until(count):
            async with asyncio.timeout(60):
                while True:
                    said = msgspec.json.decode(one.message or b"{}")
                    if said.get("items", {}).get("traces", 0) == count and said.get("behind") == 0:
                        return
                    await asyncio.sleep(0.1)

        await until(1)
        for file in home.glob("telemetry.db*"):
            file.unlink()
        await until(0)
        stop.set()
        await looking

    asyncio.run(scene())
