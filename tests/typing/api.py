"""The public API as a user's type checker sees it: checked by mypy, never run."""

from pydantic import BaseModel

import otel_perf as perf
from otel_perf import testing


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


def in_a_test(perf_capture: testing.Capture) -> list[str]:
    values: dict[str, list[tuple[float, dict[str, object]]]] = perf_capture.metrics()
    print(values, perf_capture.logs)
    return [span.name for span in perf_capture.spans]


def with_fixed_time() -> float:
    clock = testing.FixedClock()
    clock.advance(1.5)
    return clock.monotonic()
