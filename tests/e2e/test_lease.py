"""Workers that share a home: one sends at a time, another takes over when it dies, and nothing is lost on the way."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.collector import Collector
from tests.e2e.steady import made_by, worker
from tests.e2e.support import wait_for
from tests.stored import spans

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
WORKERS, KILLS = 8, 5


@pytest.fixture
def collector(tmp_path):
    return Collector(tmp_path)


def holders(home):
    """Processes that hold the lease, as the kernel says."""
    inodes = {file.stat().st_ino for file in home.glob("drain-*.lock")}
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "FLOCK" in line]
    return [int(lock[4]) for lock in locks if int(lock[5].rpartition(":")[2]) in inodes]


def connections(port):
    """Established connections to ``port`` of 127.0.0.1, from the side of whoever made them."""
    address = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2] == address and line[3] == "01" for line in lines)


def test_the_sending_one_of_eight_is_killed_again_and_again(collector, home, tmp_path):
    """GIVEN 8 workers WHEN whoever sends is killed THEN the next one sends, alone, and every span arrives."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url()}
    most = 0

    def arrived():
        nonlocal most
        most = max(most, connections(collector.http))
        return len(collector.spans())

    with collector.running(), ExitStack() as stack:
        workers = {
            number: stack.enter_context(worker(home, tmp_path, number, 0.02, **variables)) for number in range(WORKERS)
        }
        killed = set()
        for number in range(WORKERS, WORKERS + KILLS):
            known = arrived()
            wait_for(lambda known=known: arrived() > known + 200, 30, "somebody sends")
            (sender,) = holders(home)
            victim = next(key for key, process in workers.items() if process.pid == sender)
            workers[victim].send(signal.SIGKILL)
            workers[victim].wait()
            killed.add(victim)
            workers[number] = stack.enter_context(worker(home, tmp_path, number, 0.02, **variables))
            wait_for(lambda sender=sender: holders(home) not in ([], [sender]), 10, "the lease moves")
        for number in workers.keys() - killed:
            workers[number].stop()
        with worker(home, tmp_path, 100, 0.02, **variables) as last:
            wait_for(lambda: len(spans(home)) < 100, 30, "the backlog goes out")
            last.stop()
        left = {(span.trace_id, span.span_id) for span in spans(home)}
        made = set().union(*(made_by(tmp_path, number) for number in workers.keys() - killed))
        wait_for(lambda: made <= left | set(collector.spans()), 10, "the file is written")
        arrived = collector.spans()
    there = set(arrived) | left
    for number in workers.keys() - killed:
        assert made_by(tmp_path, number) <= there
    for number in killed:
        missing = made_by(tmp_path, number) - there
        assert len(missing) <= 20, "at most what was made within the delay before the kill"
    assert 1 <= most <= 3, "one process sends, over at most a connection for each signal"
    assert len(arrived) - len(set(arrived)) <= KILLS * 200, "twice comes only what was unanswered at a kill"
