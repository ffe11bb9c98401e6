"""The shape of a feature: one folder, one ``FEATURE``, found by the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from otel_perf.core.records import entity, record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Sequence as Names
    from contextlib import ExitStack

    from opentelemetry.context import Context

    from otel_perf.core.census import Census
    from otel_perf.core.events import Event
    from otel_perf.core.guard import Guard
    from otel_perf.core.home import Home
    from otel_perf.core.sequence import Sequence

SettingsT = TypeVar("SettingsT")


@record
class NoSettings:
    """Settings of a feature that has nothing to set but on, off and percentage."""


@entity
class Parts:
    """What features give to the providers before these are built.

    Processors are called in the order in which they were added. A part stays in its provider for
    the life of the process, so that it has to fall silent when its feature is turned off.
    """

    span_processors: list[Any] = field(default_factory=list)
    span_sinks: list[Any] = field(default_factory=list)  # processors that take finished spans away, to be exported
    span_shaper: Any = None  # a processor with ``feed(sink)``: the sinks, and other exporters', get spans through it
    log_processors: list[Any] = field(default_factory=list)
    metric_readers: list[Any] = field(default_factory=list)
    metric_producers: list[Any] = field(default_factory=list)  # ``produce(reader)`` adds to what a reader collects
    exemplar_filters: list[Any] = field(default_factory=list)  # each makes a filter of the one before it


class Host(Protocol):
    """What a feature may ask of the pipeline that installs it."""

    environ: Mapping[str, str]
    home: Home
    census: Census
    sequence: Sequence
    service_name: str

    def exports(self, signal: str) -> bool:
        """Whether ``signal`` (traces, metrics or logs) goes to the OTLP path, hence to the store."""
        ...

    def guard(self, feature: str) -> Guard:
        """The guard under which that feature's code in the user's call path runs."""
        ...

    def event(
        self,
        event: Event,
        attributes: Mapping[str, Any],
        *,
        body: str | None = None,
        severity: str = "INFO",
        context: Context | None = None,
    ) -> None:
        """Emit a log record with the event's name. Never raises."""
        ...

    def problem(self, line: str) -> None:
        """Say one line to whoever runs the program."""
        ...

    def share(self, feature: str) -> float:
        """The share of roll-out of ``feature``, 0.0 to 1.0, as it is now."""
        ...

    def adjust(
        self, feature: str, settings: Any, names: Names[str], apply: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call ``apply`` with the settings, and again when a flag ``perf.<feature>.<name>`` changes one of ``names``.

        What the environment says stays. The returned function ends it; ``apply`` is called by one thread at a time.
        """
        ...


class Feature(ABC, Generic[SettingsT]):
    """One capability, installed and undone by the pipeline.

    ``install`` registers an undo for every patch it makes; after the undo the process behaves as if
    the feature had never been there, and ``install`` may be called again.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    emits: ClassVar[str] = ""
    """The signal of :mod:`otel_perf.core.sequence` that says how it fares; one that several emit is theirs together."""
    awaits: ClassVar[tuple[str, ...]] = ()
    """Signals without which it is not installed: ready or failed, all must have been answered."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Signals after which its own goes out, though it is installed before."""
    by_trace: ClassVar[bool] = False
    """A percentage chooses traces, which the feature does itself, and not instances."""
    shapes: ClassVar[bool] = False
    """It has what cannot be put in front of the exporters later, the span shaper or what hides secrets in log records:
    it is prepared even when it is off, if a flag file may turn it on."""
    sheds: ClassVar[int] = 0
    """Its place among those that step down while the program is under strain, 1 first; 0 is never. For what takes
    memory or time from every call, and whose absence makes nothing wrong."""
    settings_type: type[Any] = NoSettings

    def provide(self, settings: SettingsT, host: Host, parts: Parts) -> None:
        """Add processors and readers, once in a process, before the first ``install``."""

    @abstractmethod
    def install(self, settings: SettingsT, host: Host, undo: ExitStack) -> None:
        """Turn the feature on; every patch registers its undo."""

    def holds_off(self) -> None:
        """It is on, but waits for signals: do what must not wait."""

    def prove(self) -> None:
        """Do once what it is for, just after ``install``: what it raises is why its signal says failed."""

    def last_words(self) -> None:
        """The program ends, or may end at any moment: say what sums up, before the providers are flushed. Quickly."""

    def flush(self) -> None:
        """The process may end at any moment (a signal, ``os._exit``): make safe what is safe only in memory.

        Called after the providers were flushed, with a bound of about two seconds for everything.
        """
