"""Operations that run hundreds of times: those that become slower, and the traffic of a healthy service."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import case_calls
from case import NOUNS, SCENARIOS, Case, bottleneck, connect, healthy
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from run import Shop

WARM_UPS: Final[dict[str, Callable[[Case], None]]] = {"slow_io": case_calls.warm_up}
SLOWER: Final = 0.25  # above the median: the detector's bound
tracer = trace.get_tracer("shop")
log = logging.getLogger("shop")


# --- regression ----------------------------------------------------------------------------------------


def step(case: Case, number: int) -> float:
    """From some operation on, everything takes longer."""
    return 0.04 * (1 + SLOWER * case.strength * (number >= case.given))


def swing(case: Case, number: int) -> float:
    """Load comes and goes over the day, and latency with it."""
    return 0.06 * (1 + 0.2 * math.sin(number / case.given * 4 * math.pi))


def outliers(case: Case, number: int) -> float:
    """A few take twice as long, from some operation on."""
    return 0.04 * (2 if number >= case.given and number % 20 == 0 else 1)


def small_step(case: Case, number: int) -> float:
    """A tenth more from some operation on."""
    return 0.04 * (1.1 if number >= case.given else 1)


async def _process(case: Case, seconds: float, session: aiohttp.ClientSession) -> None:
    with tracer.start_as_current_span("process"):
        await asyncio.sleep(seconds)


async def _ask(case: Case, seconds: float, session: aiohttp.ClientSession) -> None:
    async with session.get(case.url(case.noun, seconds)) as answer:
        await answer.json()


async def _query(case: Case, seconds: float, session: aiohttp.ClientSession) -> None:
    await asyncio.to_thread(_in_thread, case, seconds)


def _in_thread(case: Case, seconds: float) -> None:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT name, pause(?) FROM item WHERE id = 1 -- {case.name}", (seconds,))
        cursor.fetchone()


WORK: Final = (_process, _ask, _query)


def _register() -> None:
    for course, injects in ((step, True), (swing, False), (outliers, False), (small_step, False)):
        blame = ("GET", "SELECT") if injects else ()
        (bottleneck if injects else healthy)("regression", hosts=("main",), blame=blame)(course)


_register()


def together(cases: list[Case]) -> None:
    """Run the operations of all cases at the same time: mostly they wait."""
    asyncio.run(_together(cases))


async def _together(cases: list[Case]) -> None:
    asyncio.get_running_loop().set_default_executor(_threads(len(cases)))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(_repeated(case, session))


def _threads(number: int) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(number)


async def _repeated(case: Case, session: aiohttp.ClientSession) -> None:
    course = SCENARIOS[case.scenario].run
    change = 220 + case.random.randrange(100)
    many = 900 if course is swing else change + 320
    case.given = case.random.choice((450, 900)) if course is swing else change
    work = WORK[case.seed % len(WORK)]
    for number in range(many):
        seconds = case.about(course(case, number))
        mark = case.id if course is not step or number >= change else f"{case.id}/before"
        with tracer.start_as_current_span(case.name, kind=trace.SpanKind.SERVER, attributes={"bench.case": mark}):
            await work(case, seconds, session)
        await asyncio.sleep(0.005)


# --- a healthy service ---------------------------------------------------------------------------------


def traffic(shop: Shop, wanted: dict[str, Any], server: str) -> None:
    """About ``spans`` spans of ordinary requests, with the healthy cases of all kinds among them."""
    cases = [Case(*case, server) for case in wanted["cases"]]
    counter = [0]
    threads = [threading.Thread(target=_requests, args=(wanted["spans"], counter, number)) for number in range(2)] + [
        threading.Thread(target=asyncio.run, args=(_awaiting(wanted["spans"], counter, server),))
    ]
    for thread in threads:
        thread.start()
    for case in cases:
        shop.run(case, tries=1)
    for thread in threads:
        thread.join()


def _requests(spans: int, counter: list[int], number: int) -> None:
    chance = random.Random(number)
    connection = connect()
    while counter[0] < spans:
        noun = chance.choice(NOUNS)
        with tracer.start_as_current_span(f"GET /{noun}", kind=trace.SpanKind.SERVER):
            cursor = connection.cursor()
            with tracer.start_as_current_span("authorize"):
                cursor.execute("SELECT name FROM item WHERE id = ?", (chance.randrange(2000),))
                cursor.fetchone()
            for what in chance.sample(("name", "shelf", "count(*)", "max(shelf)", "id, name"), chance.randint(2, 5)):
                with tracer.start_as_current_span(f"load {what}"):
                    cursor.execute(f"SELECT {what} FROM item WHERE id = ?", (chance.randrange(2000),))
                    cursor.fetchall()
                counter[0] += 2
            with tracer.start_as_current_span("render"):
                log.info("rendered %s for %d", noun, sum(n % 7 for n in range(chance.randrange(3000))))
            counter[0] += 4
        time.sleep(chance.uniform(0.001, 0.006))


async def _awaiting(spans: int, counter: list[int], server: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(_awaiting_requests(spans, counter, server, session, random.Random(number)))


async def _awaiting_requests(
    spans: int, counter: list[int], server: str, session: aiohttp.ClientSession, chance: random.Random
) -> None:
    async def ask(noun: str) -> Any:
        async with session.get(f"{server}/{noun}?ms={chance.uniform(1, 40):.1f}") as answer:
            return await answer.json()

    while counter[0] < spans:
        noun = chance.choice(NOUNS)
        with tracer.start_as_current_span(f"POST /{noun}", kind=trace.SpanKind.SERVER):
            with tracer.start_as_current_span("check"):
                await ask("session")
            await asyncio.gather(*(ask(other) for other in chance.sample(NOUNS, chance.randint(1, 4))))
            counter[0] += 5
        await asyncio.sleep(chance.uniform(0.001, 0.02))
