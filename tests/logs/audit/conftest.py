"""Trails: a writer of this process that is closed afterwards, and trails made record by record."""

import pytest

from otel_perf.logs.audit import events
from tests.logs.audit import trails


@pytest.fixture(autouse=True)
def _closed():
    """No test leaves its writer to the next."""
    yield
    events.close()


@pytest.fixture
def made(home):
    """Make a trail with commits of these sizes; returns the folder."""

    def make(*commits):
        trails.fill(home, commits)
        return home

    return make
