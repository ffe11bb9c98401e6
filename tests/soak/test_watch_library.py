"""Real libraries, watched whole, under their own test-suites: every test ends as it does without us."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
@pytest.mark.parametrize("library", ["jinja2", "httpx", "sqlalchemy"])
def test_watching_a_whole_library_changes_no_outcome(library):
    command = [sys.executable, ROOT / "tools" / "watch_library.py", library, "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
