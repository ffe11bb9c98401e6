"""Coroutines are finished in the app's loop if there is one, in one of their own else, and never longer than asked."""

import asyncio
import gc
import threading
import time
import warnings

import pytest

from otel_perf.core import finishing
from otel_perf.core.finishing import finish
from tests.e2e.support import wait_for


@pytest.fixture
def app(monkeypatch):
    """An app's loop in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    monkeypatch.setattr(finishing, "app_loop", [lambda: None, lambda: loop])
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def where():
    return asyncio.get_running_loop()


async def for_ever():
    await asyncio.Event().wait()


def test_in_the_apps_loop(app):
    assert finish(where, 5) is app
    assert finish(where(), 5) is app


def test_in_a_loop_of_its_own(monkeypatch):
    monkeypatch.setattr(finishing, "app_loop", [])
    assert isinstance(finish(where, 5), asyncio.AbstractEventLoop)


def test_what_it_raises_is_raised(app):
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        finish(fail, 5)


@pytest.mark.parametrize("own", [True, False])
def test_not_longer_than_asked(app, monkeypatch, own):
    if own:
        monkeypatch.setattr(finishing, "app_loop", [])
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        finish(for_ever, 0.05)
    wait_for(lambda: not asyncio.all_tasks(app), what="the task is cancelled")


def test_a_blocked_loop_is_not_waited_for_and_finds_nothing_to_do_later(app):
    """GIVEN a blocked loop THEN the coroutine is never begun, and nobody is warned of that."""
    release, begun = threading.Event(), []

    async def work():
        begun.append(1)

    app.call_soon_threadsafe(release.wait, 10)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for given in (work, work()):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                finish(given, 0.1)
            assert time.monotonic() - began < 2
        release.set()
        assert finish(where, 5) is app
        gc.collect()
    assert begun == []
    assert said == []


def test_in_place_of_a_loop_that_was_closed_one_of_its_own_and_no_warning(app):
    app.call_soon_threadsafe(app.stop)
    wait_for(lambda: not app.is_running())
    app.close()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for given in (where, where()):
            assert finish(given, 1) is not app
        gc.collect()
    assert said == []


async def for_ever_once(app, happens):
    """Never ends in the app's loop, to which something ``happens`` then."""
    if asyncio.get_running_loop() is app:
        app.call_later(0.1, happens)
        await for_ever()
    return "elsewhere"


def test_a_loop_that_cancels_everything_is_no_answer(app):
    """It begins anew; what cannot begin anew is an error."""

    def cancel():
        for task in asyncio.all_tasks(app):
            task.cancel()

    assert finish(lambda: for_ever_once(app, cancel), 5) == "elsewhere"
    with pytest.raises(InterruptedError):
        finish(for_ever_once(app, cancel), 5)


def test_a_loop_that_stops_is_no_answer_and_what_it_had_begun_is_over(app):
    assert finish(lambda: for_ever_once(app, app.stop), 5) == "elsewhere"
    app.run_until_complete(asyncio.sleep(0.05))
    assert not asyncio.all_tasks(app)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_what_would_end_the_app_is_an_error_and_its_loop_runs_on(app, end):
    async def leave():
        raise end(3)

    with pytest.raises(RuntimeError, match=end.__name__):
        finish(leave, 5)
    assert finish(where, 5) is app
