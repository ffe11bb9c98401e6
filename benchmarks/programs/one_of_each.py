"""One span, one log line and one metric."""

import logging

from opentelemetry import metrics, trace

with trace.get_tracer("bench").start_as_current_span("work"):
    logging.warning("one line")  # noqa: LOG015 what a small script does
metrics.get_meter("bench").create_counter("bench.count").add(1)
