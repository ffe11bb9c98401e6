"""The least limit that applies is found, wherever it is."""

import os
from pathlib import Path

import psutil
import pytest

from otel_perf.memory import limits
from otel_perf.memory.limits import find, pressure_file, stalled, used

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\nBuffers: 1 kB\n"
MACHINE = 16_000_000 * 1024
GROUP = 2 * 2**30  # more than the tests' own process has
V2 = "31 23 0:28 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


@pytest.fixture
def machine(tmp_path):
    """Lay out what the kernel shows: text by path."""

    def lay(**files):
        for path, text in {"proc/meminfo": MEMINFO, **files.pop("files", {}), **files}.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return lay


def v2(path="/", mounted="/", **groups):
    files = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2.format(mounted=mounted)}
    for group, values in groups.items():
        folder = "sys/fs/cgroup" + ("" if group == "top" else f"/{group.replace('__', '/')}")
        files |= {f"{folder}/{name.replace('_', '.', 1)}": value for name, value in values.items()}
    return files


def test_without_a_group_it_is_the_machine_s(machine):
    limit = find(0, machine())
    assert (limit.size, limit.source) == (MACHINE, "the machine's memory")


def test_a_setting_counts_where_it_is_the_least(machine):
    root = machine()
    assert find(10**9, root).source == "OTEL_PERF_MEMORY_LIMIT"
    assert find(10**12, root).source == "the machine's memory"


def test_the_group_of_a_container(machine):
    """GIVEN a group that is the top of its own namespace THEN its files are the mount's own."""
    group = {"memory_max": "10000000000\n", "memory_high": "max\n", "memory_current": "7000000000\n",
             "memory_stat": "anon 1\ninactive_file 3000000000\n"}  # fmt: skip
    root = machine(files=v2(top=group))
    limit = find(0, root)
    assert (limit.size, limit.source) == (10**10, "cgroup memory.max")
    assert used(limit, root) == 4_000_000_000


@pytest.mark.parametrize("least", ["a", "a__b", "a__b__c"])
@pytest.mark.parametrize("name", ["memory_max", "memory_high"])
def test_any_group_above_may_have_the_least(machine, least, name):
    groups = {group: {"memory_max": "max\n", "memory_high": "max\n"} for group in ("a", "a__b", "a__b__c")}
    groups[least] = {**groups[least], name: "5000000\n"}
    limit = find(0, machine(files=v2(path="/a/b/c", **groups)))
    assert (limit.size, limit.source) == (5_000_000, f"cgroup {name.replace('_', '.')}")


def test_a_path_of_the_host_in_a_container_that_does_not_see_it(machine):
    root = machine(files=v2(path="/docker/0123", mounted="/docker/0123", top={"memory_max": "7000000\n"}))
    assert find(0, root).size == 7_000_000
    root = machine(files=v2(path="/elsewhere/0123", mounted="/", top={"memory_max": "8000000\n"}))
    assert find(0, root).size == 8_000_000


def test_the_first_version_beside_the_second(machine):
    files = {
        "proc/self/cgroup": "4:memory:/jobs/7\n1:cpu:/\n0::/\n",
        "proc/self/mountinfo": V1.format(mounted="/")
        + V2.format(mounted="/").replace("cgroup rw", "cgroup/unified rw"),
        "sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "2000000000\n",
        "sys/fs/cgroup/memory/jobs/memory.usage_in_bytes": "1500000000\n",
        "sys/fs/cgroup/memory/jobs/memory.stat": "inactive_file 5\ntotal_inactive_file 500000000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    root = machine(files=files)
    limit = find(0, root)
    assert (limit.size, limit.source) == (2 * 10**9, "cgroup v1 memory.limit_in_bytes")
    assert used(limit, root) == 10**9


def test_what_cannot_be_read_is_no_limit(machine, tmp_path):
    assert find(0, tmp_path / "nothing") is None
    assert find(5, tmp_path / "nothing").size == 5
    root = machine(files={"proc/self/cgroup": "nonsense\n", "proc/self/mountinfo": ""})
    assert find(0, root).size == MACHINE


def test_what_counts_of_the_machine_is_what_is_not_available(machine):
    root = machine()
    assert used(find(0, root), root) == MACHINE - 12_000_000 * 1024


def test_what_counts_of_a_setting_is_the_process_s_own():
    own = psutil.Process().memory_info().rss
    assert abs(used(find(10**6)) - own) < 50_000_000


def test_how_long_tasks_waited(machine):
    text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=1\nfull avg10=3.00 avg60=0 avg300=0 total=0\n"
    root = machine(files={"proc/pressure/memory": text})
    assert stalled(pressure_file(root)) == 0.125
    root = machine(files={**v2(path="/a", a={"memory_pressure": text.replace("12.50", "50.00")})})
    assert pressure_file(root) == root / "sys/fs/cgroup/a/memory.pressure"
    assert stalled(pressure_file(root)) == 0.5


def test_no_figure_of_the_kernel_is_no_wait(tmp_path):
    assert pressure_file(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="not Linux")
def test_this_machine_has_a_limit_and_is_under_it():
    limit = find(0)
    assert 2**20 < used(limit) < limit.size <= psutil.virtual_memory().total


def _group(name):
    """A memory group of our own under the one we are in, where root may make one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/") / name, "memory.limit_in_bytes"
        if not controllers:
            return Path("/sys/fs/cgroup") / path.lstrip("/") / name, "memory.max"
    return None


def test_a_real_group_s_limit_is_found():
    folder, file = _group(f"otel-perf-{os.getpid()}")
    try:
        folder.mkdir()
        (folder / file).write_text(str(GROUP))
    except OSError as error:
        pytest.skip(f"no memory group can be made here: {error}")
    try:
        pid = os.fork()
        if pid == 0:
            (folder / "cgroup.procs").write_text("0")
            limit = limits.find(0)
            os._exit(0 if limit.size == GROUP and 0 < used(limit) < limit.size else 1)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        folder.rmdir()
