"""Tells a webhook of memory pressure."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.threads import start_new_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT: Final = 5.0  # seconds
_log = logging.getLogger("otel_perf")


def post(url: str, body: Mapping[str, Any]) -> None:
    """Send ``body`` as JSON, in a thread of its own that ends within some seconds. Never raises."""
    try:
        start_new_thread(_post, (url, json.dumps(body).encode()))
    except RuntimeError:
        _log.warning("otel-perf: no thread is to be had to tell %s of memory pressure", url)


def _post(url: str, body: bytes) -> None:
    import urllib3
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    problem = ""
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it does not begin with http:// or https://")
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
            answer = pool.request("POST", url, body=body, headers={"Content-Type": "application/json"})
        if answer.status >= 400:
            problem = f"it answered {answer.status}"
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        problem = str(error)
    if problem:
        _log.warning("otel-perf: %s was not told of memory pressure: %s", url, problem)
