"""Who finds that the program is under strain says so, and whoever wants to know is told."""

import pytest

from otel_perf.core import strain


@pytest.fixture
def told():
    calls = []

    def tell():
        calls.append(strain.reason())

    strain.changed.append(tell)
    yield calls
    strain.changed.remove(tell)
    strain.end("memory")
    strain.end("disk")


def test_it_lasts_as_long_as_one_of_its_causes(told):
    strain.begin("memory", "memory is short")
    strain.begin("disk", "the disk is full")
    strain.end("memory")
    strain.end("disk")
    assert told == ["memory is short", "memory is short; the disk is full", "the disk is full", ""]


def test_a_cause_that_begins_again_has_its_new_reason_and_ends_once(told):
    strain.begin("memory", "memory is short")
    strain.begin("memory", "memory is shorter")
    strain.end("memory")
    strain.end("memory")
    assert told == ["memory is short", "memory is shorter", ""]
