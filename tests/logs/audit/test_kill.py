"""kill -9 at any moment, eight processes writing: the trail is whole, and has all that was acknowledged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import programs
from tests.logs.audit import trails

PROGRAM = Path(__file__).with_name("killed.py")


def check(home, tmp_path, kills):
    acknowledged = tmp_path / "acknowledged"
    acknowledged.mkdir()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(acknowledged), str(kills)],
        env=programs.environment(home), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = trails.judge(home)
    assert found.good, found
    stored = {seq: body["fields"]["n"] for seq, body in trails.bodies(home).items()}
    claimed = 0
    for path in acknowledged.iterdir():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the kill may have come in the middle of writing down
                seq, number = json.loads(line)
                assert stored[seq] == number
                claimed += 1
    assert claimed >= kills, "each had written before it was killed"
    assert found.opened >= kills


def test_sixty_kills(home, tmp_path):
    check(home, tmp_path, 60)


@pytest.mark.soak
def test_two_hundred_kills(home, tmp_path):
    check(home, tmp_path, 200)
