"""Six processes that wait for each other, one of them killed and started again in each round."""

import uuid

import pytest

from otel_perf.core.home import HOME_VARIABLE, Home
from otel_perf.signals.boards import open_board
from otel_perf.signals.settings import SignalsSettings
from tests.signals import nats_server
from tests.signals.team import play

ROUNDS, LONG = 4, 200


def rounds(folder, url, number, half_way=None):
    environ = {HOME_VARIABLE: str(folder / "team"), "OTEL_PERF_SIGNALS_URL": url}
    board = open_board(SignalsSettings(url=url), Home(environ), print)
    try:
        for seed in range(number):
            play(board, f"round-{seed}", seed, environ, half_way if seed == number // 2 else None)
    finally:
        board.close()


def test_all_become_ready_and_nothing_is_lost_or_early_in_a_file(tmp_path):
    rounds(tmp_path, "", ROUNDS)


def test_all_become_ready_and_nothing_is_lost_or_early_over_a_server_that_restarts(tmp_path):
    with nats_server.running(tmp_path) as server:

        def restart():
            server.stop()
            server.start()

        rounds(tmp_path, f"{server.url}/{uuid.uuid4().hex}", ROUNDS, restart)


@pytest.mark.soak
def test_two_hundred_rounds_in_a_file(tmp_path):
    rounds(tmp_path, "", LONG)


@pytest.mark.soak
def test_two_hundred_rounds_over_a_server_that_restarts(tmp_path):
    with nats_server.running(tmp_path) as server:

        def restart():
            server.stop()
            server.start()

        rounds(tmp_path, f"{server.url}/{uuid.uuid4().hex}", LONG, restart)
