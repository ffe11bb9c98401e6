"""Constants that both twins of a call share."""

from __future__ import annotations

from typing import Final

from opentelemetry import context as context_api
from opentelemetry.trace.propagation import _SPAN_KEY

SPAN_KEY: Final = _SPAN_KEY
CALL_KEY: Final = context_api.create_key("otel-perf-call")
NEVER: Final = float("inf")
OVERFLOW: Final = "otel.metric.overflow"  # what all functions share that are too many
