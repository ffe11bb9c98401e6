"""Who waited for whom, from the spans of signals: the timeline, and the chain that decided when all was ready."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.analysis.numbers import number_of
from otel_perf.analysis.otlp import instance_of, service_of
from otel_perf.core.events import WAITED_FOR

if TYPE_CHECKING:
    from otel_perf.analysis.otlp import SpanRecord

_RECEIVED: Final = "perf.signal.received"

Key = tuple[str, str, int]  # name, key and number of a signal


class Emission(BaseModel):
    """A signal that was emitted."""

    time_ns: int
    service: str
    agent: str
    name: str
    key: str
    state: str
    reason: str
    sequence: int
    trace_id: str


class WaitRow(BaseModel):
    """A wait: for which names, how long (s), and how it ended (ready, failed, timeout, cancelled, error).

    ``last`` is the signal that ended it, ``emitter`` who emitted that; ``missing`` is what did not come.
    """

    start_ns: int
    end_ns: int
    service: str
    names: list[str]
    key: str
    seconds: float
    outcome: str
    last: str
    emitter: str
    missing: list[str]
    trace_id: str


class Step(BaseModel):
    """One link of the chain: ``service`` waited for the one before (s), worked (s), and emitted ``name``."""

    service: str
    name: str
    time_ns: int
    waited: float
    worked: float


class Readiness(BaseModel):
    """The timeline: signals and waits, the first first, and the chain with the longest waits."""

    emissions: list[Emission]
    waits: list[WaitRow]
    chain: list[Step]


@dataclass(frozen=True, slots=True)
class _Got:
    """What a wait got."""

    process: tuple[str, str]
    row: WaitRow
    keys: tuple[Key, ...]  # of each signal, the last one last


class Signals:
    """Gathers them while spans pass by."""

    def __init__(self) -> None:
        self._emissions: list[tuple[tuple[str, str], Emission]] = []
        self._waits: list[_Got] = []

    def add(self, span: SpanRecord) -> bool:
        """Take ``span``; whether it is a wait that nobody's work encloses, whose time is nobody's."""
        if span.kind == "PRODUCER" and "perf.signal.name" in span.attributes:
            self._add_emission(span)
        elif span.kind == "CONSUMER" and WAITED_FOR in span.attributes:
            self._add_wait(span)
            return not span.parent_id
        return False

    def _add_emission(self, span: SpanRecord) -> None:
        said = span.attributes
        emission = Emission(
            time_ns=span.start,
            service=service_of(span.resource),
            agent=str(said.get("gen_ai.agent.name", "")),
            name=str(said["perf.signal.name"]),
            key=str(said.get("perf.signal.key", "")),
            state=str(said.get("perf.signal.state", "")),
            reason=str(said.get("perf.signal.reason", "")),
            sequence=int(number_of(said.get("perf.signal.sequence"))),
            trace_id=span.trace_id,
        )
        self._emissions.append((_process(span), emission))

    def _add_wait(self, span: SpanRecord) -> None:
        said = span.attributes
        got = [attributes for name, attributes in span.events if name == _RECEIVED]
        got.sort(key=lambda attributes: number_of(attributes.get("perf.signal.sequence")))
        last = got[-1] if got else {}
        row = WaitRow(
            start_ns=span.start,
            end_ns=span.end,
            service=service_of(span.resource),
            names=_names(said[WAITED_FOR]),
            key=str(said.get("perf.signal.key", "")),
            seconds=span.seconds,
            outcome=str(said.get("perf.signal.outcome", "")),
            last=str(last.get("perf.signal.name", "")),
            emitter=str(last.get("perf.signal.emitter", "")),
            missing=_names(said.get("perf.signal.missing")),
            trace_id=span.trace_id,
        )
        self._waits.append(_Got(_process(span), row, tuple(_key(attributes) for attributes in got)))

    def readiness(self, top: int) -> Readiness:
        """Of what was taken; ``top`` rows of each list, the last ones."""
        emissions = sorted((emission for _, emission in self._emissions), key=lambda emission: emission.time_ns)
        waits = sorted((got.row for got in self._waits), key=lambda row: row.start_ns)
        return Readiness(emissions=emissions[-top:], waits=waits[-top:], chain=self._chain())

    def _chain(self) -> list[Step]:
        """Back from each signal over the wait before it, to the signal that ended that, and so on; the longest."""
        emitted = {(e.name, e.key, e.sequence): (process, e) for process, e in self._emissions}
        waits: dict[tuple[str, str], list[_Got]] = {}
        for got in sorted(self._waits, key=lambda got: got.row.end_ns):
            if got.keys:
                waits.setdefault(got.process, []).append(got)
        ends = {process: [got.row.end_ns for got in found] for process, found in waits.items()}
        lasted: dict[Key, float] = {}  # seconds of waiting in the chain up to a signal
        before: dict[Key, _Got | None] = {}
        for key, (process, emission) in sorted(emitted.items(), key=lambda item: item[1][1].time_ns):
            at = bisect_right(ends.get(process, ()), emission.time_ns)
            ended = before[key] = waits[process][at - 1] if at else None
            lasted[key] = 0.0 if ended is None else ended.row.seconds + lasted.get(ended.keys[-1], 0.0)
        last = max(lasted, key=lambda key: lasted[key], default=None)
        steps: list[Step] = []
        seen: set[Key] = set()
        while last is not None and last in emitted and last not in seen:
            seen.add(last)
            emission, ended = emitted[last][1], before[last]
            steps.append(
                Step(
                    service=emission.agent or emission.service, name=emission.name, time_ns=emission.time_ns,
                    waited=0.0 if ended is None else ended.row.seconds,
                    worked=0.0 if ended is None else (emission.time_ns - ended.row.end_ns) / 1e9,
                )
            )  # fmt: skip
            last = None if ended is None else ended.keys[-1]
        return steps[::-1]


def _names(given: object) -> list[str]:
    return [str(name) for name in given] if isinstance(given, list | tuple) else []


def _process(span: SpanRecord) -> tuple[str, str]:
    return service_of(span.resource), instance_of(span.resource)


def _key(attributes: dict[str, object]) -> Key:
    number = attributes.get("perf.signal.sequence", 0)
    return (
        str(attributes.get("perf.signal.name", "")), str(attributes.get("perf.signal.key", "")),
        number if isinstance(number, int) else 0,
    )  # fmt: skip
