"""A shop that does nothing wrong has no bottleneck."""

import subprocess

import pytest

from tests.e2e.support import environment
from tests.e2e.test_shop_bottlenecks import ROOT
from tests.stored import logs
from tools import environments

pytestmark = pytest.mark.soak
REQUESTS, RATE = 10_000, 40


def test_no_finding_in_ten_thousand_requests(tmp_path):
    home = tmp_path / ".otel-perf"
    folder = environments.ensure("shop")
    load = ["--seconds", str(REQUESTS / RATE), "--rate", str(RATE), "--errors", "0", "--slow", ""]
    subprocess.run(
        [folder / "bin" / "python", "-m", "examples.shop.demo", "--home", home, *load],
        cwd=ROOT, env=environment(folder, home), check=True, timeout=REQUESTS / RATE + 120,
    )  # fmt: skip
    assert [entry.body for entry in logs(home) if entry.event_name == "perf.bottleneck"] == []
