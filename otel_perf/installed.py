"""What has become of a feature in this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import field
from typing import TYPE_CHECKING, Any

from otel_perf.core.records import entity
from otel_perf.core.sequence import OFF
from otel_perf.core.settings import variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.core.feature import Feature
    from otel_perf.core.rollout import Decision


@entity
class Installed:
    """One feature and what has become of it."""

    feature: Feature[Any]
    settings: Any
    decision: Decision
    on: bool = False
    reason: str = ""
    provided: bool = False
    failed: bool = False  # could not be prepared or installed: not tried again
    settled: bool = False  # its signals have come, and it was turned on or left off
    unproven: str = ""  # why its first use failed
    place: int = 0  # in the order of installation
    held: str = ""  # why it has stepped down, and stays off whatever its decision says
    undo: ExitStack = field(default_factory=ExitStack)

    def is_wanted(self, identity: str) -> bool:
        """Whether it is to be on in the instance of this identity, or for some traces."""
        if self.feature.by_trace:
            return self.decision.share > 0.0
        return self.decision.applies_to(identity)

    def complaint(self, *, broken: bool) -> str:
        """What its signal gives as the reason, empty where it is ready; ``broken``: by its own errors."""
        if self.on:
            return self.unproven
        return self.reason if self.failed or broken or self.reason.startswith(OFF) else f"{OFF}: {self.reason}"


def why_off(decision: Decision) -> str:
    """The reason of a feature that is not wanted here."""
    if decision.share == 0.0:
        return f"off by {decision.source}"
    return f"not among the {decision.share:.0%} of {decision.source}"


def from_others(signals: Installed | None, identity: str, say: Callable[[str], None]) -> tuple[str, ...]:
    """Signals of the start that somebody else emits, as the settings of the feature of that name have it."""
    external: tuple[str, ...] = () if signals is None else signals.settings.external
    if external and signals is not None and not signals.is_wanted(identity):
        say(f"otel-perf: {variable('signals', 'external')} needs signals, which are off: it is ignored")
        return ()
    return external
