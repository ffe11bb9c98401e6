"""A program that leaks, under opentelemetry-instrument: the store has who leaks, where, and until when."""

from tests.e2e import programs
from tests.stored import logs

# Hours are seconds here; nothing else is changed.
PACE = """
import gc
from otel_perf.memory import leak_evidence, leaks, pressure
leaks.WINDOW, leaks.WARM_UP, leaks.SAMPLES, leaks.GAP, pressure.QUIET = 0.2, 0.5, 10, 5.0, 0.02
leak_evidence.SECONDS = 2.0
for item in gc.get_objects():
    if isinstance(item, leaks.LeakWatch):
        item.start()  # it may have looked before
"""
SHOP = """
class Session:
    def __init__(self, number):
        self.number = number
        self.page = bytes(30_000)

sessions = []

def visit(number):
    sessions.append(Session(number))
"""
PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import pace, shop
import tracemalloc
began, number, traced = time.monotonic(), 0, False
while time.monotonic() - began < 15 and not (traced and not tracemalloc.is_tracing()):
    traced = traced or tracemalloc.is_tracing()
    shop.visit(number)
    number += 1
    time.sleep(0.002)  # up to 15 MB/s
time.sleep(0.3)
"""


def test_a_leak_is_told_with_its_type_line_and_container(home, tmp_path):
    (tmp_path / "pace.py").write_text(PACE)
    (tmp_path / "shop.py").write_text(SHOP)
    ended = programs.run(PROGRAM, home, str(tmp_path), OTEL_PERF_MEMORY_LIMIT="200MB")
    assert (ended.status, ended.err) == (0, "")
    events = [record for record in logs(home) if record.event_name == "perf.memory.leak_suspected"]
    assert len(events) == 1
    attributes = events[0].attributes
    assert attributes["perf.memory.leak.types"][0] == "shop.Session"
    assert attributes["code.file.path"] == str(tmp_path / "shop.py")
    assert attributes["code.line.number"] == 1 + SHOP.splitlines().index("        self.page = bytes(30_000)")
    assert list(attributes["perf.memory.leak.containers"]) == ["shop.sessions"]
    assert 1e6 < attributes["perf.memory.leak.rate"] < 1e8
    assert events[0].body.startswith("memory leak suspected: ")
    assert "shop.Session +" in events[0].body
