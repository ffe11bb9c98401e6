"""The numbers of all caches, as they are reported, with everything found that can be."""

from contextlib import ExitStack

import pytest

from otel_perf.core.census import Census
from otel_perf.memory import found as finding
from otel_perf.memory.cache_metrics import EVICTIONS, HIT_RATIO, HITS, LIMIT, MISSES, SIZE, CacheMetrics
from tests import redis_server as redis_server_of_tests


class Found:
    """What is reported, and the undo of what was patched for it."""

    def __init__(self):
        self.census, self.undo = Census(), ExitStack()
        CacheMetrics(finding.install(self.undo)).install(self.census, self.undo)

    def __call__(self, metric):
        """Values by name of the cache."""
        return {attributes["perf.cache.name"]: value for value, attributes in self.census.read(metric)}

    def asked(self, name):
        """Hits and misses of one cache, nothing if it is not known."""
        return self(HITS).get(name), self(MISSES).get(name)

    def all_of(self, name):
        return [self(metric).get(name) for metric in (HITS, MISSES, EVICTIONS, SIZE, LIMIT, HIT_RATIO)]


@pytest.fixture
def found():
    found = Found()
    with found.undo:
        yield found


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """The port of a real server."""
    with redis_server_of_tests.running(tmp_path_factory.mktemp("redis")) as port:
        yield port
