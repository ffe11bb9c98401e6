"""However a program ends while its slow requests are looked at, their spans are stored, once."""

import signal

import pytest

from tests.e2e import programs
from tests.stored import spans

# Requests that were slow, with statements that are all different: looking at all of them takes seconds.
BUSY = """
import os, signal, time
from opentelemetry import trace

tracer, now = trace.get_tracer("t"), time.time_ns() - 10**10
kind = trace.SpanKind
for request in range(60):
    root = tracer.start_span(f"GET /{request}", kind=kind.SERVER, start_time=now)
    context = trace.set_span_in_context(root)
    for query in range(100):
        at = now + query * 10**7
        text = {"db.system": "sqlite", "db.statement": f"SELECT a, b FROM t{query} WHERE c = '{request}-{query}'"}
        tracer.start_span("SELECT", context, kind.CLIENT, text, start_time=at).end(at + 9 * 10**6)
    root.end(now + 10**9)
open_root = tracer.start_span("websocket", start_time=now)
tracer.start_span("slow child", trace.set_span_in_context(open_root), start_time=now).end(now + 10**9)
"""
ENDINGS = {
    "return": ("", 0),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", -signal.SIGTERM),
    "os._exit": ("os._exit(3)", 3),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_spans_of_slow_requests_outlive_their_program(home, ending):
    how, status = ENDINGS[ending]
    ended = programs.run(BUSY + how, home)
    assert (ended.status, ended.err) == (status, "")
    stored = spans(home)
    assert len(stored) == len({span.span_id for span in stored}) == 60 * 101 + 1
    assert len([span for span in stored if span.name.startswith("GET /")]) == 60
    assert "slow child" in {span.name for span in stored}
