"""The public API as a user's type checker sees it: checked by mypy, never run."""

import otel_perf as perf
from otel_perf import testing


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
