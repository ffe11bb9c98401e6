"""The shop's slow switches: the report names each, by its kind and the line of code that has to be mended."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import environment
from tools import environments

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"
FILLED = 40  # requests a second

# switch: kinds of finding, a piece of the line, requests a second
SWITCHES = {
    "n_plus_one": ({"n_plus_one"}, "item.product.name", 15),
    "serial_io": ({"serial_io"}, "await quotes.get(", 15),
    "slow_query": ({"slow_io"}, "session.execute(query)", 15),
    "cpu": ({"cpu_bound", "self_time"}, "matcher.", 15),  # where the machine is busy it is not all CPU
    "gc": ({"gc_pause"}, "gc.collect()", 15),
    "lock": ({"lock_wait"}, "with provider_lock()", FILLED),
    "loop_block": ({"loop_block"}, "time.sleep(0.12)", 15),
    "pool": ({"pool_wait"}, "asyncio.to_thread(_check_out", 15),
}


def bottlenecks(home, slow, rate, seconds=8):
    """What the report says of a run with these switches."""
    folder = environments.ensure("shop")
    env = environment(folder, home)
    load = ["--seconds", str(seconds), "--rate", str(rate), "--errors", "0", "--slow", slow]
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "examples.shop.demo", "--home", home, *load],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Bottlenecks, by what mending them would save" in done.stdout
    report = subprocess.check_output(
        [folder / "bin" / "otel-perf", "report", "--home", home, "--json", "--top", "100"], env=env, text=True
    )
    return json.loads(report)["bottlenecks"]


def named(found, switch):
    """The rows that name the line of a switch."""
    kinds, text, _ = SWITCHES[switch]
    rows = [row for row in found if row["kind"] in kinds and row["path"].startswith("examples/shop/")]
    return [row for row in rows if text in (ROOT / row["path"]).read_text().splitlines()[row["line"] - 1]]


@pytest.mark.soak  # three minutes; all together are enough for each change
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_alone_is_named_with_its_line(tmp_path, switch):
    found = bottlenecks(tmp_path / ".otel-perf", switch, SWITCHES[switch][2])
    assert named(found, switch), [(row["kind"], row["where"], row["evidence"]) for row in found]


def test_all_switches_together_are_named(tmp_path):
    """GIVEN a shop that does everything wrong WHEN it is used for a while THEN each of its mistakes is a row."""
    found = bottlenecks(tmp_path / ".otel-perf", ",".join(SWITCHES), 12, seconds=60)  # two orders that meet are few
    missing = [switch for switch in SWITCHES if not named(found, switch)]
    assert not missing, [(row["kind"], row["where"]) for row in found]
