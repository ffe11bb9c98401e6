import gc, time, itertools
from concurrent.futures import ThreadPoolExecutor
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from tests.bottlenecks.conftest import *
pytest_plugins=[]
def in_context(span): return trace.set_span_in_context(span)
def test_a(app):
    running = app()
    now = time.time_ns() - 60_000 * MS
    clock = itertools.count(now, MS)
    root = running.tracer.start_span("batch", start_time=next(clock))
    for _ in range(8):
        part = running.tracer.start_span("part", in_context(root), start_time=next(clock))
        for _ in range(520):
            call = running.tracer.start_span(
                "SELECT", in_context(part), kind=SpanKind.CLIENT, start_time=next(clock),
                attributes={"db.system": "sqlite", "db.statement": "SELECT a FROM t WHERE b = ?"},
            )  # fmt: skip
            call.end(next(clock))
        part.end(next(clock))
    root.end(next(clock))
    import cProfile
    p=cProfile.Profile(); p.enable()
    running.analyst.flush(60.0)
    p.disable()
    import pstats; pstats.Stats(p).sort_stats("cumtime").print_stats(14)
    for s,f in running.findings(): print(s.name, f)
    print((root.end_time-root.start_time)/1e9)
