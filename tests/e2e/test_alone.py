"""With nothing but what ``pip install otel-perf`` brings: the report works, and what needs an extra names it."""

import json
import os
import pty
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.e2e import programs
from tools import environments

ROOT = Path(__file__).resolve().parents[2]
BROKEN = {"click", "pyuwsgi", "opentelemetry-instrumentation-click"}  # what the tests of the doctor put beside it
SPAN = "from opentelemetry import trace\ntrace.get_tracer('t').start_span('work').end()"


@pytest.fixture(scope="module")
def alone():
    """The commands of an environment without any extra."""
    return environments.ensure("broken") / "bin"


@pytest.fixture
def stored(alone, home):
    """A store, made there."""
    command = [alone / "opentelemetry-instrument", alone / "python", "-c", SPAN]
    subprocess.run(command, env=programs.environment(home), check=True, timeout=60)
    return home


def names(lines):
    return {re.split(r"[<>=!\[; ]", line)[0] for line in lines if line and not line.startswith("#")}


def test_the_environment_has_what_the_package_needs_and_no_more():
    needed = names(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    there = names((ROOT / "tools" / "environments" / "broken.txt").read_text().splitlines())
    assert there - BROKEN == needed


def test_the_report_is_plain_text_also_in_a_terminal(alone, stored):
    assert subprocess.run([alone / "python", "-c", "import rich"], capture_output=True, check=False).returncode == 1
    environ = {**programs.environment(stored), "TERM": "xterm-256color"}
    read, write = pty.openpty()
    process = subprocess.Popen([alone / "otel-perf", "report"], env=environ, stdout=write, stderr=write)
    os.close(write)
    shown = b""
    try:
        while chunk := os.read(read, 65536):
            shown += chunk
    except OSError:  # the other side of a terminal ends like this
        pass
    os.close(read)
    assert process.wait(60) == 0
    assert "Slowest operations, by their own time" in shown.decode()
    assert "work" in shown.decode()
    assert b"\x1b[" not in shown


@pytest.mark.parametrize(
    "arguments", [["report", "--json"], ["report", "--html", "{page}"], ["export"], ["analyze"], ["schema", "log"]]
)
def test_the_reading_commands_need_nothing_else(arguments, alone, stored, tmp_path):
    command = [alone / "otel-perf", *(word.format(page=tmp_path / "page.html") for word in arguments)]
    done = subprocess.run(
        command, env=programs.environment(stored), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "--json" in arguments:
        assert json.loads(done.stdout)["spans"] == 1


def test_view_says_what_to_install(alone, stored):
    done = subprocess.run(
        [alone / "otel-perf", "view"], env=programs.environment(stored), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "otel-perf view needs an extra: pip install 'otel-perf[view]'\n"
