import pytest

from tests.signals import nats_boards, nats_server


@pytest.fixture(scope="session")
def nats_of_all(tmp_path_factory):
    """One server for all tests of a worker: each has a bucket of its own."""
    with nats_server.running(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def on_nats(nats_of_all, tmp_path):
    made = nats_boards.Boards(nats_of_all, tmp_path)
    yield made
    made.close()


@pytest.fixture
def own_server(tmp_path):
    """A server that a test may stop."""
    with nats_server.running(tmp_path) as server:
        yield server


@pytest.fixture
def own(own_server, tmp_path):
    made = nats_boards.Boards(own_server, tmp_path)
    yield made
    made.close()
