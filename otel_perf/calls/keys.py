"""Constants that both twins of a call share."""

from __future__ import annotations

from typing import Final

from opentelemetry import context as context_api
from opentelemetry.trace.propagation import _SPAN_KEY

SPAN_KEY: Final = _SPAN_KEY
CALL_KEY: Final = context_api.create_key("otel-perf-call")
SCALE: Final = 3
BUCKETS_PER_DOUBLING: Final = 2**SCALE
# Bucket 0 of the lists here is the one from 2^-30 s, about 1 ns, on; the last one ends at 2^20 s, 12 days.
OFFSET: Final = 30 * BUCKETS_PER_DOUBLING
BUCKETS: Final = 50 * BUCKETS_PER_DOUBLING
NEVER: Final = float("inf")
