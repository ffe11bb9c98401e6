"""Five million audit records: verified in flat memory."""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from tests.e2e import programs
from tests.logs.audit import trails

RECORDS = 5_000_000
BATCH = 10_000
VERIFY = """
import json, resource, sys, time
from otel_perf import cli
began = time.process_time()
status = cli.main(["audit", "verify", "--json", "--home", sys.argv[1]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"status": status, "rss": used.ru_maxrss * 1024, "cpu": time.process_time() - began}), file=sys.stderr)
"""


def verified(home):
    """What the command says, and what it took."""
    done = subprocess.run(
        [sys.executable, "-c", VERIFY, str(home)], env=programs.environment(home), capture_output=True, text=True,
        timeout=1800, check=True,
    )  # fmt: skip
    return json.loads(done.stdout), json.loads(done.stderr)


@pytest.mark.soak
def test_five_million_records_are_verified_in_flat_memory(home, tmp_path):
    trails.fill(tmp_path / "few", [BATCH])
    _, few = verified(tmp_path / "few")
    record = trails.event(7)
    with contextlib.closing(trails.opened(home)) as database:
        database._connection.execute("PRAGMA synchronous = OFF")
        began = time.monotonic()
        for _ in range(RECORDS // BATCH):
            database.append([record] * BATCH)
        print(f"made in {time.monotonic() - began:.0f} s")
    found, many = verified(home)
    print(
        f"verified: CPU {many['cpu']:.1f} s, RSS {many['rss'] / 1e6:.1f} MB (of {BATCH:,}: {few['rss'] / 1e6:.1f} MB)"
    )
    assert (found["good"], found["records"], many["status"]) == (True, RECORDS + 1, 0)
    assert many["rss"] < few["rss"] + 4_000_000
