"""Calls are measured, into an in-memory SDK."""

import pytest

from otel_perf.calls.function import FUNCTIONS, Functions

SLOW = 3600.0  # no call of these tests is slow unless it says so


@pytest.fixture(autouse=True)
def _no_counts():
    FUNCTIONS.after_fork_in_child()


@pytest.fixture
def calls(perf_capture, monkeypatch):
    """What the measured calls of the test make; every function decorated in the test begins with no counts."""
    fresh = Functions()
    for name in ("add", "block", "turn", "counts", "step_down", "after_fork_in_child"):
        monkeypatch.setattr(FUNCTIONS, name, getattr(fresh, name))
    fresh.turn(True, slow=SLOW)
    yield perf_capture
    fresh.turn(False)


def counts_of(name):
    """The counts of the function whose name ends with ``name``."""
    (found,) = [counts for counts in FUNCTIONS.counts() if counts.name.rpartition(".")[2] == name]
    return found
