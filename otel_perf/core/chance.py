"""Random numbers for jitter that leave those of the app alone, which it may have seeded."""

from __future__ import annotations

from random import Random
from typing import Final

from otel_perf.core.forks import on_fork

chance: Final = Random()
on_fork(child=chance.seed)
