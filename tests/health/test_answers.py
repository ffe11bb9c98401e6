"""What checks may return, and what it means."""

import pytest

from otel_perf.core.health import DEGRADED, HEALTHY, UNHEALTHY
from otel_perf.health.answers import LONGEST, meaning, raised


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (None, HEALTHY, ""), (True, HEALTHY, ""), ("", HEALTHY, ""), ("ok", HEALTHY, ""), (" Pass ", HEALTHY, ""),
        (False, UNHEALTHY, "it returned False"), ("fail", UNHEALTHY, ""), ("degraded", DEGRADED, ""),
        ("the queue is full", UNHEALTHY, "the queue is full"),
        (("degraded", "slow"), DEGRADED, "slow"), ((True, "all\nwell"), HEALTHY, "all well"), ((False, "no"), UNHEALTHY, "no"),
        ({"status": "warn", "output": "so so"}, DEGRADED, "so so"), ({"status": "UP"}, HEALTHY, ""),
        ({"status": "OUT_OF_SERVICE"}, UNHEALTHY, "OUT_OF_SERVICE"), ({"status": "down", "reason": "x"}, UNHEALTHY, "x"),
        # What a query or a ping gives says nothing of health but that it was answered.
        (1, HEALTHY, ""), (0, HEALTHY, ""), ((1,), HEALTHY, ""), ((1, "alice"), HEALTHY, ""), ([], HEALTHY, ""),
        ({"rows": 3}, HEALTHY, ""), (b"PONG", HEALTHY, ""),
    ],
)  # fmt: skip
def test_answers(answer, status, reason):
    assert meaning(answer) == (status, reason)


def test_what_is_raised_is_a_reason_in_one_line_without_credentials():
    error = ConnectionError("cannot reach postgres://bob:secret@db:5432/shop\nand\tgave up")
    assert raised(error) == (UNHEALTHY, "ConnectionError: cannot reach postgres://…@db:5432/shop and gave up")
    assert raised(TimeoutError()) == (UNHEALTHY, "TimeoutError")


def test_a_reason_is_not_too_long():
    _, reason = meaning("x" * 10**6)
    assert len(reason) == LONGEST
    assert reason.endswith("…")
