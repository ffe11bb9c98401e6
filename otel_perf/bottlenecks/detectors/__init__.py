"""The detectors: each a small class that is its own settings, ``OTEL_PERF_BOTTLENECKS_<KIND>_<FIELD>``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from otel_perf.bottlenecks.detectors.calls import FanOut, NPlusOne, SerialIo, SlowIo
from otel_perf.bottlenecks.detectors.code import CpuBound, CpuStarved, GilWait, SelfTime
from otel_perf.bottlenecks.detectors.trends import MemoryGrowth, Regressed
from otel_perf.bottlenecks.detectors.waits import GcPause, LockWait, LoopBlock, PoolWait
from otel_perf.core.settings import load, variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_perf.bottlenecks.finding import Finding
    from otel_perf.bottlenecks.trace import Trace
    from otel_perf.core.settings import Problem


class Detector(Protocol):
    """Finds bottlenecks of one kind."""

    kind: ClassVar[str]

    def find(self, trace: Trace) -> Iterator[Finding]:
        """The findings in ``trace``, which claim the time that they explain."""


# In the order in which they claim time: what is certain and specific comes first.
DETECTORS: Final[tuple[type[Any], ...]] = (
    GcPause, PoolWait, LockWait, LoopBlock, NPlusOne, FanOut, SerialIo, SlowIo, MemoryGrowth, CpuStarved, GilWait,
    CpuBound, SelfTime, Regressed,
)  # fmt: skip


def load_all(environ: Mapping[str, str]) -> tuple[list[Detector], list[Problem]]:
    """Every detector that is not switched off, with its settings."""
    made: list[Detector] = []
    problems: list[Problem] = []
    for kind in DETECTORS:
        detector, wrong = load(kind, f"bottlenecks_{kind.kind}", environ)
        problems += wrong
        if detector.enabled:
            made.append(detector)
    return made, problems


def variables() -> list[str]:
    """The names of all their settings."""
    return [variable(f"bottlenecks_{kind.kind}", item.name) for kind in DETECTORS for item in fields(kind)]
