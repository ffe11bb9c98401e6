"""What caches have counted: read at once, seldom, and never at the app's cost."""

import pytest

from otel_perf.core import lookups


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.setattr(lookups, "sources", [])
    monkeypatch.setattr(lookups, "_again", 0.0)
    return lookups.sources


def test_caches_of_one_name_are_counted_together(sources):
    sources.append(lambda: [("a", 1, 2), ("b", 3, 4)])
    sources.append(lambda: [("a", 10, 20)])
    assert lookups.by_cache() == {"a": (11, 22), "b": (3, 4)}
    assert lookups.read() == (14, 26)


def test_a_source_that_fails_is_left_out(sources):
    sources += [lambda: 1 / 0, lambda: [("a", 1, 2)]]
    assert lookups.by_cache() == {"a": (1, 2)}
    assert lookups.read() == (1, 2)


def test_names_are_bounded(sources):
    sources.append(lambda: [(f"cache {number}", 1, 0) for number in range(1000)])
    found = lookups.by_cache()
    assert len(found) == lookups.NAMES + 1
    assert sum(hits for hits, _ in found.values()) == 1000


def test_reading_takes_half_a_percent_of_the_time_at_most(sources, monkeypatch):
    now = [100.0]

    def slow():
        now[0] += 0.01
        return [("a", 1, 1)]

    monkeypatch.setattr(lookups, "perf_counter", lambda: now[0])
    sources.append(slow)
    assert lookups.read_if_due() == (1, 1)
    now[0] += 1.9
    assert lookups.read_if_due() is None
    now[0] += 0.2
    assert lookups.read_if_due() == (1, 1)
    now[0] += 1.0
    assert lookups.read() == (1, 1)  # at the end of what began with the one before
    now[0] += 2.9
    assert lookups.read_if_due() is None
    now[0] += 0.2
    assert lookups.read_if_due() == (1, 1)


def test_without_caches_there_is_nothing_to_read(sources):
    assert lookups.read_if_due() is None
    assert lookups.read() == (0, 0)
