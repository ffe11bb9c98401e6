"""The public names, and what importing them costs."""

import os
import subprocess
import sys

import pytest

import otel_perf


def test_all_names_are_there_and_sorted():
    assert otel_perf.__all__ == sorted(otel_perf.__all__)
    assert dir(otel_perf) == otel_perf.__all__
    for name in otel_perf.__all__:
        assert getattr(otel_perf, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'otel_perf' has no attribute 'nonsense'"):
        _ = otel_perf.nonsense


def test_importing_the_package_imports_nothing_else():
    program = "import sys; before = set(sys.modules); import otel_perf; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "opentelemetry" not in done.stdout
    assert "pydantic" not in done.stdout


@pytest.mark.parametrize(
    "heavy",
    [
        "pydantic", "psutil", "google.protobuf", "opentelemetry.exporter", "urllib3", "otel_perf.store.drain",
        "otel_perf.signals.api", "otel_perf.memory.leak_evidence", "tracemalloc", "hashlib", "decimal",
    ],
)  # fmt: skip
def test_a_plain_start_imports_nothing_heavy(heavy, tmp_path):
    """Pydantic, psutil and the encoder together would double the price of a start; the others come when they are used."""
    program = (
        "import sys, otel_perf; from otel_perf.distro import PerfDistro, PerfConfigurator\n"
        "PerfDistro().configure(); PerfConfigurator().configure()\n"
        f"print([name for name in sys.modules if name == {heavy!r} or name.startswith({heavy + '.'!r})])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_PERF_STORE")}
    environ["TMPDIR"] = str(tmp_path)  # where homes of others that could not be written have left nothing
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=environ
    )
    assert done.stdout == "[]\n"
