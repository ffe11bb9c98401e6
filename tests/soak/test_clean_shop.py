"""A shop that does nothing wrong has no bottleneck."""

import subprocess

import pytest

from tests.e2e.support import environment
from tests.e2e.test_shop_bottlenecks import ROOT
from tests.stored import logs
from tools import environments

pytestmark = pytest.mark.soak
REQUESTS = 10_000
LONGEST = 1_800  # seconds


def test_no_finding_in_ten_thousand_requests(tmp_path):
    """One after the other: requests that wait for each other, for a CPU or the interpreter, are findings and true."""
    home = tmp_path / ".otel-perf"
    folder = environments.ensure("shop")
    load = ["--requests", str(REQUESTS), "--errors", "0", "--slow", ""]
    subprocess.run(
        [folder / "bin" / "python", "-m", "examples.shop.demo", "--home", home, *load],
        cwd=ROOT, env=environment(folder, home), check=True, timeout=LONGEST,
    )  # fmt: skip
    assert [entry.body for entry in logs(home) if entry.event_name == "perf.bottleneck"] == []
