"""Calls to others: too many, one after the other, too slow, too many at once; and what only looks like it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import requests
from case import DATABASE, TRUST, Case, bottleneck, connect, healthy
from opentelemetry import trace
from sqlalchemy import ForeignKey, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

if TYPE_CHECKING:
    from collections.abc import Iterator

engine = create_engine(f"sqlite:///{DATABASE}")
dawdle = 0.0  # what reading a row of "note" takes (s)


@event.listens_for(engine, "connect")
def _add_functions(connection: Any, _: object) -> None:
    connection.create_function("pause", 1, time.sleep)
    connection.create_function("dawdle", 0, lambda: time.sleep(dawdle))


class Base(DeclarativeBase):
    """Of the tables."""


class Item(Base):
    """What is sold; its notes are loaded when they are looked at."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    notes: Mapped[list[Note]] = relationship()


class Note(Base):
    """A view that takes time."""

    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("item.id"))
    note: Mapped[str]
    slow: Mapped[str]


@contextmanager
def notes(case: Case) -> Iterator[None]:
    """The view exists."""
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW IF NOT EXISTS note AS SELECT *, dawdle() AS slow FROM line"))
    yield


def many(case: Case) -> tuple[list[int], float]:
    """Keys, and what a call for one of them takes."""
    keys = case.random.sample(range(2000), round(case.over(5)) + 1)
    return keys, case.over(0.05) / len(keys)


# --- n_plus_one ----------------------------------------------------------------------------------------


@bottleneck("n_plus_one")
def query_for_each(case: Case) -> list[Any]:
    keys, each = many(case)
    with closing(connect()) as connection:
        cursor = connection.cursor()
        found = []
        for key in keys:
            cursor.execute("SELECT name, pause(?) FROM item WHERE id = ?", (each, key))
            found.append(cursor.fetchone())
    return found


@bottleneck("n_plus_one")
def literal_query_for_each(case: Case) -> list[Any]:
    keys, each = many(case)
    with engine.connect() as connection:
        return [
            connection.execute(text(f"SELECT name, pause({each}) FROM item WHERE id = {key}")).one() for key in keys
        ]


@bottleneck("n_plus_one", around=notes)
def lazy_relation(case: Case) -> int:
    global dawdle
    keys, dawdle = many(case)
    with Session(engine) as session:
        items = session.query(Item).filter(Item.id.in_(keys)).all()
        return sum(len(item.notes) for item in items)


@bottleneck("n_plus_one")
def request_for_each(case: Case) -> list[Any]:
    keys, each = many(case)
    with requests.Session() as session:
        return [session.get(case.url(f"{case.noun}/{key}", each), timeout=30).json() for key in keys]


def fetch(client: httpx.Client, url: str) -> Any:
    return client.get(url).json()


@bottleneck("n_plus_one", blame=(fetch,))
def request_for_each_by_helper(case: Case) -> list[Any]:
    keys, each = many(case)
    with httpx.Client(verify=TRUST) as client:
        return [fetch(client, case.url(f"{case.noun}/{key}", each)) for key in keys]


@bottleneck("n_plus_one")
async def await_for_each(case: Case) -> list[Any]:
    keys, each = many(case)
    found = []
    async with httpx.AsyncClient(verify=TRUST) as client:
        for key in keys:
            answer = await client.get(case.url(f"{case.noun}/{key}", each))
            found.append(answer.json())
    return found


@bottleneck("n_plus_one")
async def aiohttp_for_each(case: Case) -> list[Any]:
    keys, each = many(case)
    found = []
    async with aiohttp.ClientSession() as session:
        for key in keys:
            async with session.get(case.url(f"{case.noun}/{key}", each)) as answer:
                found.append(await answer.json())
    return found


@healthy("n_plus_one")
def one_query_for_all(case: Case) -> list[Any]:
    keys, each = many(case)
    marks = ", ".join("?" * len(keys))
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(
            f"WITH slow AS MATERIALIZED (SELECT pause(?)) SELECT name FROM item, slow WHERE id IN ({marks})",
            (each * len(keys), *keys),
        )
        return cursor.fetchall()


@healthy("n_plus_one")
def four_repeats(case: Case) -> list[Any]:
    each = min(case.over(0.05), 0.1) / 4
    with engine.connect() as connection:
        slow = text("SELECT name, pause(:each) FROM item WHERE id = :key")
        return [connection.execute(slow, {"each": each, "key": key}).one() for key in range(4)]


@healthy("n_plus_one")
def different_statements(case: Case) -> list[Any]:
    each = case.over(0.05, at_most=0.2) / 8
    found = []
    with closing(connect()) as connection:
        cursor = connection.cursor()
        for what in ("name", "shelf", "id", "name, shelf", "id, name", "id, shelf", "count(*)", "max(shelf)"):
            cursor.execute(f"SELECT {what}, pause(?) FROM item WHERE id = ?", (each, case.seed))
            found.append(cursor.fetchone())
    return found


@healthy("n_plus_one")
async def all_at_once(case: Case) -> list[Any]:
    keys, each = many(case)
    async with httpx.AsyncClient(verify=TRUST) as client:
        return await asyncio.gather(*(client.get(case.url(f"{case.noun}/{key}", each * 2)) for key in keys[:10]))


# --- serial_io -----------------------------------------------------------------------------------------


def apart(case: Case, calls: int) -> float:
    """What each of ``calls`` calls takes, so that at once they would save what they should."""
    return case.over(0.1) / (calls - 1)


@bottleneck("serial_io")
def two_requests(case: Case) -> dict[str, Any]:
    each = apart(case, 2) if case.strength < 4 else apart(case, 3)
    profile = requests.get(case.url(f"profile/{case.seed}", each), timeout=30).json()
    rates = requests.get(case.url("rates", each), timeout=30).json()
    if case.strength < 4:
        return {"profile": profile, "rates": rates}
    stock = requests.get(case.url("stock", each), timeout=30).json()
    return {"profile": profile, "rates": rates, "stock": stock}


@bottleneck("serial_io")
async def three_awaits(case: Case) -> dict[str, Any]:
    each = apart(case, 3)
    async with httpx.AsyncClient(verify=TRUST) as client:
        profile = await client.get(case.url(f"profile/{case.seed}", each))
        rates = await client.get(case.url("rates", each))
        stock = await client.get(case.url("stock", each))
    return {"profile": profile.json(), "rates": rates.json(), "stock": stock.json()}


@bottleneck("serial_io")
async def awaits_in_a_loop(case: Case) -> list[Any]:
    names = case.random.sample(["profile", "rates", "stock", "offers"], case.random.choice((3, 4)))
    each = apart(case, len(names))
    found = []
    async with aiohttp.ClientSession() as session:
        for name in names:
            async with session.get(case.url(name, each)) as answer:
                found.append(await answer.json())
    return found


def ask_profile(case: Case, each: float) -> Any:
    return requests.get(case.url("profile", each), timeout=30).json()


def ask_rates(case: Case, each: float) -> Any:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*), pause(?) FROM item", (each,))
        return cursor.fetchone()


def ask_stock(case: Case, each: float) -> Any:
    with httpx.Client(verify=TRUST) as client:
        return client.get(case.url("stock", each)).json()


@bottleneck("serial_io", blame=(ask_profile, ask_rates, ask_stock))
def three_helpers(case: Case) -> list[Any]:
    each = apart(case, 3)
    return [ask_profile(case, each), ask_rates(case, each), ask_stock(case, each)]


@bottleneck("serial_io")
def two_queries(case: Case) -> tuple[Any, Any]:
    each = apart(case, 2) if case.strength < 4 else 0.4
    with engine.connect() as connection:
        newest = connection.execute(text("SELECT max(id), pause(:each) FROM item"), {"each": each}).one()
        number = connection.execute(text("SELECT count(*), pause(:each) FROM line"), {"each": each}).one()
    return newest, number


@healthy("serial_io")
def second_needs_first(case: Case) -> Any:
    each = apart(case, 2) if case.strength < 4 else apart(case, 3)
    first = requests.get(case.url("current", each), timeout=30).json()
    return requests.get(case.url(first["next"], each), timeout=30).json()


@healthy("serial_io")
async def second_await_needs_first(case: Case) -> Any:
    each = min(apart(case, 2), 0.4)
    async with httpx.AsyncClient(verify=TRUST) as client:
        answer = await client.get(case.url("current", each))
        if not answer.json()["items"]:
            return None
        return (await client.get(case.url(answer.json()["next"], each))).json()


def ask_current(client: httpx.Client, case: Case, each: float) -> str:
    return str(client.get(case.url("current", each)).json()["next"])


def ask_part(client: httpx.Client, case: Case, part: str, each: float) -> Any:
    return client.get(case.url(part, each)).json()


@healthy("serial_io")
def second_helper_needs_first(case: Case) -> Any:
    each = min(apart(case, 2), 0.4)
    with httpx.Client(verify=TRUST) as client:
        part = ask_current(client, case, each)
        return ask_part(client, case, part, each)


@healthy("serial_io")
async def gathered(case: Case) -> list[Any]:
    each = min(apart(case, 2), 0.4)
    async with aiohttp.ClientSession() as session:

        async def one(name: str) -> Any:
            async with session.get(case.url(name, each)) as answer:
                return await answer.json()

        return await asyncio.gather(one("profile"), one("rates"), one("stock"))


@healthy("serial_io")
def short_requests(case: Case) -> list[Any]:
    with requests.Session() as session:
        profile = session.get(case.url("profile", case.about(0.015)), timeout=30).json()
        rates = session.get(case.url("rates", case.about(0.015)), timeout=30).json()
        stock = session.get(case.url("stock", case.about(0.015)), timeout=30).json()
    return [profile, rates, stock]


# --- slow_io -------------------------------------------------------------------------------------------

USUAL = {"reports/daily": 0.12, "reports/quick": 0.03}  # seconds: what the calls of warm_up take


def warm_up(case: Case) -> None:
    """Calls that have a past: 320 of each."""

    def request(path: str) -> None:
        requests.get(case.url(path, case.about(USUAL[path])), timeout=30).json()

    def query() -> None:
        with closing(connect()) as connection:
            connection.cursor().execute("SELECT pause(?), 'known'", (case.about(0.03),))

    def ask(_: int) -> None:
        for call in (*(partial(request, path) for path in USUAL), query):
            with trace.get_tracer("shop").start_as_current_span("GET /known", kind=trace.SpanKind.SERVER):
                call()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(320)))


@bottleneck("slow_io")
def slow_request(case: Case) -> Any:
    return requests.get(case.url(f"suppliers/{case.seed}", case.over(0.5)), timeout=30).json()


@bottleneck("slow_io")
async def slow_await(case: Case) -> Any:
    async with httpx.AsyncClient(verify=TRUST, timeout=30) as client:
        return (await client.get(case.url("suppliers", case.over(0.5)))).json()


@bottleneck("slow_io")
def slow_query(case: Case) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*), pause(:long) FROM line"), {"long": case.over(0.5)}).one()


@bottleneck("slow_io")
def slower_request_than_ever(case: Case) -> Any:
    return requests.get(case.url("reports/quick", case.over(3 * 1.2 * 0.03)), timeout=30).json()


@bottleneck("slow_io")
def slower_query_than_ever(case: Case) -> Any:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT pause(?), 'known'", (case.over(3 * 1.2 * 0.03),))
        return cursor.fetchone()


@healthy("slow_io")
def always_so_slow(case: Case) -> Any:
    return requests.get(case.url("reports/daily", case.about(0.12)), timeout=30).json()


@healthy("slow_io")
async def awaited_always_so_slow(case: Case) -> Any:
    async with aiohttp.ClientSession() as session, session.get(case.url("reports/daily", case.about(0.12))) as answer:
        return await answer.json()


@healthy("slow_io")
def fast_calls(case: Case) -> Any:
    with closing(connect()) as connection:
        connection.cursor().execute("SELECT pause(?), 'known'", (case.about(0.03),))
    return requests.get(case.url("reports/quick", case.about(0.03)), timeout=30).json()


# --- fan_out -------------------------------------------------------------------------------------------


@bottleneck("fan_out")
async def gather_many(case: Case) -> list[Any]:
    count, each = round(case.over(15)) + 1, case.about(0.03)
    async with httpx.AsyncClient(verify=TRUST, limits=httpx.Limits(max_connections=None), timeout=30) as client:
        urls = [case.url(f"{case.noun}/{key}", each, room=6) for key in range(count)]
        return await asyncio.gather(*(client.get(url) for url in urls))


@bottleneck("fan_out")
async def task_for_each(case: Case) -> list[Any]:
    count, each = round(case.over(15)) + 1, case.about(0.04)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:

        async def one(key: int) -> Any:
            async with session.get(case.url(f"{case.noun}/{key}", each, room=5)) as answer:
                return await answer.json()

        tasks = [group.create_task(one(key)) for key in range(count)]
    return [task.result() for task in tasks]


@bottleneck("fan_out")
def thread_for_each(case: Case) -> list[Any]:
    count, each = round(case.over(15)) + 1, case.about(0.04)

    def one(key: int) -> Any:
        return requests.get(case.url(f"{case.noun}/{key}", each, room=5), timeout=30).json()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@bottleneck("fan_out")
def query_in_thread_for_each(case: Case) -> list[Any]:
    count, each = round(case.over(20)) + 2, case.about(0.008)

    def one(key: int) -> Any:
        with closing(connect()) as connection:  # SQLite lets one write at a time
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("UPDATE line SET note = coalesce(pause(?), ?) WHERE id = ?", (each, str(key), key))
            return cursor.rowcount

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@healthy("fan_out")
async def gather_twelve(case: Case) -> list[Any]:
    each = case.about(0.05) * case.strength
    async with httpx.AsyncClient(verify=TRUST) as client:
        return await asyncio.gather(*(client.get(case.url(f"{case.noun}/{key}", each)) for key in range(12)))


@healthy("fan_out")
def twelve_threads(case: Case) -> list[Any]:
    each = case.about(0.05) * case.strength

    def one(key: int) -> Any:
        return requests.get(case.url(f"{case.noun}/{key}", each), timeout=30).json()

    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(one, range(12)))
