"""Changes are told at once, and those of a check that goes to and fro once, and when it has come to rest."""

from otel_perf.core.health import DEGRADED, HEALTHY, UNHEALTHY
from otel_perf.health.changes import CALM, FLAPS, Told


def test_each_change_is_told_once_and_at_once():
    told = Told()
    assert told.look(HEALTHY, 0.0) is None
    assert told.look(DEGRADED, 1.0) == HEALTHY
    assert told.look(DEGRADED, 2.0) is None
    assert told.look(UNHEALTHY, 3.0) == DEGRADED
    assert told.look(HEALTHY, 4.0) == UNHEALTHY
    assert not told.flapping


def flap(told, seconds):
    """Go to and fro once a second; what was told, and when."""
    found = []
    for second in range(seconds):
        status = UNHEALTHY if second % 2 else HEALTHY
        if told.look(status, float(second)) is not None:
            found.append((second, status, told.flapping))
    return found


def test_one_that_goes_to_and_fro_is_told_so_and_then_no_more():
    told = Told()
    found = flap(told, 600)
    assert [second for second, _, _ in found] == list(range(1, FLAPS + 2))
    assert [flapping for _, _, flapping in found] == [False] * FLAPS + [True]


def test_when_it_has_come_to_rest_where_it_is_now_is_told():
    told = Told()
    flap(told, 20)  # the last status that was told is healthy; the last change was at 19, to unhealthy
    assert told.status == HEALTHY
    assert told.look(UNHEALTHY, 19.0 + CALM - 0.1) is None
    assert told.look(UNHEALTHY, 19.0 + CALM) == HEALTHY
    assert not told.flapping
    assert told.look(HEALTHY, 100.0) == UNHEALTHY


def test_when_it_has_come_to_rest_where_it_was_nothing_is_told():
    told = Told()
    flap(told, 21)
    assert told.look(HEALTHY, 20.0 + CALM) is None
    assert not told.flapping


def test_seldom_is_not_to_and_fro():
    told = Told()
    for number in range(50):
        assert told.look(UNHEALTHY if number % 2 == 0 else HEALTHY, number * 30.0) is not None
        assert not told.flapping
