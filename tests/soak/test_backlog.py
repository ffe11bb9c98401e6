"""A gigabyte that waits: the start is not slower, memory does not grow, and all of it goes out."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_perf.core.home import STORE_FILE
from tests.e2e import programs
from tests.e2e.steady import made_by, worker
from tests.e2e.support import Running, free_port, wait_for
from tests.stored import waiting

PROGRAMS = Path(__file__).resolve().parents[2] / "benchmarks" / "programs"
ONE = "from opentelemetry import trace; trace.get_tracer('t').start_span('x').end()"


def resident(pid):
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.soak
def test_a_gigabyte_that_waits_goes_out(home, tmp_path):
    port = free_port()
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_SERVICE_NAME": "bench",
        "OTEL_PERF_STORE_LIMIT": "2GB",
    }
    began = time.monotonic()
    programs.run(ONE, tmp_path / "other", **variables)
    usual = time.monotonic() - began
    fill = [sys.executable, str(PROGRAMS / "backlog.py"), str(home), "1000"]
    subprocess.run(fill, check=True, env=programs.environment(home, **variables))
    before = waiting(home)
    began = time.monotonic()
    done = programs.run(ONE, home, **variables)
    assert time.monotonic() - began < 2 * usual + 1
    assert done.status == 0
    assert waiting(home) == before + 1
    doctor = [str(programs.BIN / "otel-perf"), "doctor", "--home", str(home)]
    shown = subprocess.run(
        doctor, env=programs.environment(home, **variables), capture_output=True, text=True, check=False
    )
    assert f"{before + 1:,} spans" in shown.stdout

    sink = [sys.executable, str(PROGRAMS / "sink.py"), "--discard", f"--port={port}"]
    with Running(sink, programs.environment(home), tmp_path, tmp_path / "sink.log") as receiver:
        receiver.wait_until_listening(port)
        with worker(home, tmp_path, 1, 0.01, **variables) as app:
            wait_for(lambda: waiting(home) < before - 50_000, 60, "it begins to send")
            memory = [resident(app.pid)]
            while waiting(home) > 1000:
                memory.append(resident(app.pid))
                time.sleep(0.2)
            assert app.stop() == -15
        assert len(made_by(tmp_path, 1)) > 100
    assert max(memory) - memory[0] < 16_000_000
    assert (home / STORE_FILE).exists()
