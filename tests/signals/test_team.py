"""Six processes that wait for each other, one of them killed and started again in each round."""

import pytest

from otel_perf.signals.sqlite_board import SqliteBoard
from tests.signals.team import play


@pytest.mark.parametrize("seed", range(6))
def test_all_become_ready_and_nothing_is_lost_or_early(tmp_path, seed):
    board = SqliteBoard(tmp_path / "signals.db")
    play(board, f"round-{seed}", seed, {"OTEL_PERF_HOME": str(tmp_path)})
    board.close()
