"""The resource that all telemetry of this process carries."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final

import otel_perf

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

# In the command line of a process that multiprocessing spawned. An id that was given, as the OpenTelemetry Operator
# gives each container one, is its parent's: both would put points into the same series. A forked child has its own.
_SPAWNED: Final = "--multiprocessing-fork"


def create(distro_version: str) -> Resource:
    """Upstream's, as its variables and detectors say, with our name in it."""
    attributes = {"telemetry.distro.name": "otel-perf", "telemetry.distro.version": otel_perf.__version__}
    if distro_version:
        attributes["telemetry.auto.version"] = distro_version
    if _SPAWNED in sys.orig_argv:
        attributes["service.instance.id"] = str(uuid.uuid4())
    resource: Resource = _import_resources().create(attributes)
    return resource


def _import_resources() -> Any:
    """Import the SDK's resources without psutil, which they import only for a detector that is off.

    psutil costs a tenth of a plain start (19 ms CPU of 200). It is put back before anybody can ask for it.
    """
    wanted = os.environ.get("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "").strip()
    loaded = "psutil" in sys.modules or "opentelemetry.sdk.resources" in sys.modules
    hide = not wanted and not loaded and threading.active_count() == 1  # another thread might import it just now
    if hide:
        sys.modules["psutil"] = None  # type: ignore[assignment]
    try:
        from opentelemetry.sdk.resources import Resource
    finally:
        if hide:
            del sys.modules["psutil"]
    return Resource
