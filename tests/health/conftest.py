"""Health by itself: no check but the test's own."""

import pytest

from otel_perf.core import health
from otel_perf.health import present


class Clock:
    """Moves only when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def alone(monkeypatch):
    """No checks of anybody else's."""
    for module, name in ((health, "checks"), (health, "changed"), (present, "listeners"), (present, "running")):
        monkeypatch.setattr(module, name, [])
