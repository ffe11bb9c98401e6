"""Reports of processes, as the runner makes them."""

import os
import time


def check(name, status="healthy", reason="", *, critical=False, live=False):
    """One check in a report."""
    return {
        "name": name, "status": status, "reason": reason, "critical": critical, "live": live,
        "time": "2026-11-26T20:00:00.000Z", "since": "2026-11-26T19:00:00.000Z", "took": 0.001,
    }  # fmt: skip


def report(*checks, **changed):
    """A process that is well, made now by this one."""
    made = {"status": "healthy", "live": True, "ready": True, "started": True, "service": "shop", "pid": os.getpid()}
    return {**made, "made": time.monotonic(), "checks": list(checks), **changed}
