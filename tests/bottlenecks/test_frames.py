"""Stacks are copied alike by the compiled part and by its Python twin, and while everything moves."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from otel_perf.bottlenecks import frames
from tests.bottlenecks.conftest import comes_to_rest

ON_LINUX = sys.platform.startswith("linux")


def test_the_compiled_part_is_what_runs_here():
    """CI has a compiler; a user without one has the twin, which the other tests compare."""
    if not os.environ.get("CI") and frames._compiled is None:
        pytest.skip("otel_perf/bottlenecks/_frames.c is not compiled here")
    assert ON_LINUX
    assert frames._compiled is not None


@pytest.fixture
def waiting():
    """A thread that stands still some frames deep, by its ident."""
    release = threading.Event()

    def deep(levels):
        return deep(levels - 1) if levels else release.wait(30)

    thread = threading.Thread(target=deep, args=(5,))
    thread.start()
    assert comes_to_rest(thread)
    assert "wait" in [code.co_name for code, _, _ in frames.threads(9)[thread.ident]]
    yield thread.ident
    release.set()
    thread.join()


@pytest.mark.parametrize("depth", [0, 1, 3, 200])
def test_both_copy_the_same_stack_of_a_thread(waiting, monkeypatch, depth):
    monkeypatch.setattr(frames, "SAFE_IN_PYTHON", True)
    copied = frames._threads(depth)[waiting]
    assert frames.threads(depth)[waiting] == copied
    assert len(copied) <= depth


def test_both_copy_the_same_of_a_coroutine_and_nothing_of_one_that_runs(monkeypatch):
    monkeypatch.setattr(frames, "SAFE_IN_PYTHON", True)
    seen = []

    async def inner():
        seen.append((frames.awaited(outer_coroutine, 9), frames._awaited(outer_coroutine, 9)))
        await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def outer():
        await inner()

    async def main():
        nonlocal outer_coroutine
        outer_coroutine = outer()
        task = asyncio.ensure_future(outer_coroutine)
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append((frames.awaited(outer_coroutine, 9), frames._awaited(outer_coroutine, 9)))
        seen.append((frames.awaited(outer_coroutine, 1), frames._awaited(outer_coroutine, 1)))
        task.cancel()

    outer_coroutine = None
    asyncio.run(main())
    running, whole, cut = seen
    assert running == (None, None)
    assert whole[0] == whole[1]
    assert [code.co_name for code, _, _ in whole[0]] == ["outer", "inner", "wait"]
    assert cut[0] == cut[1] == whole[0][:1]


@pytest.mark.parametrize("other", [None, 7, object(), [], "text"])
def test_what_is_no_coroutine_has_no_stack(monkeypatch, other):
    monkeypatch.setattr(frames, "SAFE_IN_PYTHON", True)
    assert frames.awaited(other, 9) == frames._awaited(other, 9) == []


def test_without_the_compiled_part_an_old_python_touches_no_other_thread(monkeypatch):
    monkeypatch.setattr(frames, "SAFE_IN_PYTHON", False)
    assert frames._threads(9) == {}
    assert frames._awaited(moving, 9) is None


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled):
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        frames.threads(9)
        frames.awaited(None, 9)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_nothing_is_kept_of_what_was_copied(waiting):
    class Local:
        pass

    alive = threading.Event()

    def work():
        local = Local()
        alive.set()
        time.sleep(0.05)
        del local

    thread = threading.Thread(target=work)
    thread.start()
    alive.wait(5)
    copies = [frames.threads(200) for _ in range(100)]
    thread.join()
    assert not [item for item in gc.get_objects() if type(item) is Local]
    assert len(copies) == 100


def moving(seconds):
    """How often stacks were copied in a process where everything moves, which has to survive it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bottlenecks.moving", str(seconds)],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_copying_harms_nobody_while_everything_moves():
    """Walked in Python, the same frames crash 3.11 within seconds."""
    assert moving(8) > 100
