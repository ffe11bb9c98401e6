"""The public API as a user's type checker sees it: checked by mypy, never run."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, assert_type

from pydantic import BaseModel

import otel_perf as perf
from otel_perf import testing

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@perf.events.register("order.placed", version=2)
class OrderPlaced(BaseModel):
    order_id: int


class OrderPaid(BaseModel):
    order_id: int


def of_business() -> int:
    kind: type[OrderPaid] = perf.events.register("order.paid", OrderPaid, span_event=False)
    perf.business_event("order.placed", order_id=1, event="a field")
    perf.business_event(OrderPlaced(order_id=1))
    return kind(order_id=2).order_id


def by_hand() -> None:
    perf.setup()
    version: str = perf.__version__
    print(version)
    perf.shutdown()


async def audited() -> int:
    number: int = perf.audit_event("role.changed", actor="alice", target="bob", outcome="success", roles=["admin"])
    return number + await perf.audit_event_async("role.changed", actor="alice", target="bob", outcome="success")


def in_a_test(perf_capture: testing.Capture) -> list[str]:
    values: dict[str, list[tuple[float, dict[str, object]]]] = perf_capture.metrics()
    print(values, perf_capture.logs)
    return [span.name for span in perf_capture.spans]


def with_fixed_time() -> float:
    clock = testing.FixedClock()
    clock.advance(1.5)
    return clock.monotonic()


def with_an_id(number: int) -> str:
    with perf.correlation(f"job-{number}"):
        return perf.correlation.current()


@perf.correlation("nightly")
def nightly(day: str, *, again: bool = False) -> int:
    return len(day) + again


@perf.correlation("hourly")
async def hourly(hour: int) -> int:
    async with perf.correlation(hour):
        return hour


async def decorated_keep_their_types() -> int:
    return nightly("monday", again=True) + await hourly(3)


async def asgi_app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b""]


apps = (perf.CorrelationMiddleware(asgi_app), perf.WSGICorrelationMiddleware(wsgi_app))


@perf.health.check("db", critical=True, timeout="2s")
def db() -> bool:
    return True


@perf.health.check("queue", live=True, every=30)
async def queue() -> tuple[str, str]:
    return "degraded", "it is long"


def of_health() -> dict[str, Any]:
    end = perf.health.on_change(lambda change: print(change["name"]))
    end()
    perf.health.remove("db")
    print(db(), queue)
    return perf.health.status()


async def served_beneath(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    await perf.health.asgi_app(scope, receive, send)


def served_by_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return perf.health.wsgi_app(environ, start_response)


async def with_signals() -> str:
    put = perf.signals.emit("CACHE_WARM", payload={"rows": 7}, key="eu", ttl=60, agent="loader")
    assert_type(put, perf.signals.Signal)
    found = await perf.signals.wait("CACHE_WARM", timeout=30, then=["UP"])
    assert_type(found, dict[str, perf.signals.Signal])
    perf.signals.wait_sync("A", "B", any_of=True)
    end = perf.signals.on("CACHE_WARM", lambda signal: print(signal.value))
    end()
    perf.health.check("db")(perf.signals.check("DB_READY"))
    try:
        perf.signals.wait_sync("DB_READY", timeout=1)
    except perf.signals.SignalTimeoutError as error:
        return ", ".join(error.missing)
    return found["CACHE_WARM"].reason
