"""Ten million calls leave nothing behind."""

import gc
import statistics
from pathlib import Path

import pytest

import otel_perf as perf
from otel_perf.calls.call import COMPILED
from otel_perf.calls.function import FUNCTIONS

CALLS, PARTS = 10_000_000, 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.soak
def test_ten_million_calls_do_not_grow_the_process(perf_capture):
    @perf.monitored(name="soaked")
    def inner(number):
        return number

    @perf.monitored(name="outer")
    def outer(number):
        return inner(number)

    FUNCTIONS.turn(True, slow=3600.0)
    try:
        outer(0)
        sizes = []
        for _ in range(PARTS):
            for number in range(CALLS // PARTS // 2):
                outer(number)
            sizes.append(resident())
    finally:
        FUNCTIONS.turn(False)
    gc.collect()
    print(f"{'compiled' if COMPILED else 'pure'}: {[round(size / 1e6, 1) for size in sizes]} MB")
    (counts,) = [counts for counts in FUNCTIONS.counts() if counts.name == "soaked"]
    assert counts.count == CALLS // 2 + 1
    first, last = statistics.median(sizes[:5]), statistics.median(sizes[-5:])
    assert last - first < 500_000
    assert not perf_capture.spans
