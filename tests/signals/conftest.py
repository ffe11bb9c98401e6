import pytest

from tests.signals import nats_server


@pytest.fixture(scope="session")
def nats_of_all(tmp_path_factory):
    """One server for all tests of a worker: each has a bucket of its own."""
    with nats_server.running(tmp_path_factory.mktemp("nats")) as server:
        yield server
