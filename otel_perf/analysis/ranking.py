"""Which services and operations whole traces waited for, above what they wait in a fault-free baseline."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from pydantic import BaseModel

from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.sources import Span
from otel_perf.core.critical_path import critical_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

USUAL: Final = 0.95  # the quantile of the baseline above which a time is inflated
_TOP: Final = ""  # parent of the spans whose own parent is not in the trace

Key: TypeAlias = tuple[str, str, str]  # service, operation, and the service that it calls, else ""


class ServiceRow(BaseModel):
    """One service. Times in seconds; ``traces`` have it on their critical path.

    ``self_time`` is what all traces together waited for it, the calls that count for it included. With a baseline
    ``score`` is what it costs a trace that goes through it, above the baseline; without one it is ``self_time``.
    """

    service: str
    score: float
    self_time: float
    traces: int


class OperationRow(BaseModel):
    """One operation of a service, scored as a service is. Times in seconds.

    ``callee``: the service that it calls; its time is then what the call took beyond that service's own span (network,
    queues, serialisation), and ``culprit`` is the endpoint that it counts for. ``usual`` is the p95 of the baseline and
    ``above`` the share of visits over it; both are 0 without a baseline.
    """

    service: str
    name: str
    callee: str
    culprit: str
    score: float
    self_time: float
    visits: int
    usual: float
    above: float
    slowest: float
    slowest_trace: str


class Ranking(BaseModel):
    """Everything ``otel-perf analyze`` shows, worst first; the schema of its ``--json``.

    ``unknown``: operations that the baseline does not have, which cannot be judged and are left out.
    ``skipped``: lines that could not be read, by file.
    """

    traces: int
    spans: int
    baseline_traces: int
    baseline_spans: int
    services: list[ServiceRow]
    operations: list[OperationRow]
    unknown: int
    skipped: dict[str, int] = {}


@dataclass(slots=True)
class _Visits:
    """Of one operation: the time (s) of each visit of a critical path, and the number of the trace."""

    times: array[float] = field(default_factory=lambda: array("d"))
    traces: array[int] = field(default_factory=lambda: array("q"))


class Profile:
    """The critical paths of many traces, by operation. About 5 µs and 15 bytes a span; the spans are not kept."""

    def __init__(self, traces: Iterable[Collection[Span]]) -> None:
        self.spans = 0
        self.trace_ids: list[str] = []
        self.visits: dict[Key, _Visits] = defaultdict(_Visits)
        for spans in traces:
            self.spans += len(spans)
            for key, seconds in _own_times(spans):
                self.visits[key].times.append(seconds)
                self.visits[key].traces.append(len(self.trace_ids))
            self.trace_ids.append(next(iter(spans)).trace_id)


def by_trace(spans: Iterable[Span]) -> Collection[list[Span]]:
    """The spans of each trace. All are kept, about 0.4 kB each, since those of one trace arrive in any order."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    return traces.values()


def _own_times(spans: Iterable[Span]) -> Iterator[tuple[Key, float]]:
    known = {span.span_id: span for span in spans}  # what was delivered twice counts once
    children: dict[str, list[Span]] = defaultdict(list)
    for span in known.values():
        children[span.parent_id if span.parent_id in known else _TOP].append(span)
    tops = children[_TOP]
    whole = Span(
        "", _TOP, "", "", "", min((top.start for top in tops), default=0), max((top.end for top in tops), default=0)
    )
    for visit in critical_path(whole, lambda span: children.get(span.span_id, ()))[1:]:
        span = visit.node
        called = {child.service for child in children.get(span.span_id, ())}
        callee = called.pop() if len(called) == 1 else ""
        yield (span.service, span.name, callee if callee != span.service else ""), visit.exclusive / 1e9


@dataclass(slots=True)
class _Judged:
    """An operation beside the baseline. ``excess`` (s) is its time over ``usual``, less as chance explains it."""

    visits: _Visits
    excess: float
    usual: float = 0.0
    above: float = 0.0

    def per_trace(self) -> float:
        return self.excess / len(set(self.visits.traces))


def rank(seen: Profile, baseline: Profile | None = None, *, top: int = 10) -> Ranking:
    """The ``top`` worst services and operations; with a baseline only those that are worse than it.

    An operation's excess is the time of its visits above the p95 of its own in the baseline, times the share of them
    that lie above beyond what chance has there: a few outliers weigh little, a lasting shift all. A score is the
    excess for each trace that passes, so that what is called seldom is found too. A call's time beyond the
    span that answers it counts for the endpoint that has the larger share of inflated calls, by pairs of services.
    """
    judged = {
        key: _judge(visits, baseline.visits[key]) if baseline else _Judged(visits, sum(visits.times))
        for key, visits in seen.visits.items()
        if baseline is None or key in baseline.visits
    }
    culprits = _culprits(judged) if baseline else {key: key[0] for key in judged}
    operations = [
        _operation(key, one, culprits[key], seen, one.per_trace() if baseline else one.excess)
        for key, one in judged.items()
        if one.excess > 0
    ]
    of_services: dict[str, list[_Judged]] = defaultdict(list)
    for key, one in judged.items():
        of_services[culprits[key]].append(one)
    services = [_service(name, members, per_trace=baseline is not None) for name, members in of_services.items()]
    return Ranking(
        traces=len(seen.trace_ids),
        spans=seen.spans,
        baseline_traces=len(baseline.trace_ids) if baseline else 0,
        baseline_spans=baseline.spans if baseline else 0,
        services=sorted((row for row in services if row.score > 0), key=lambda row: -row.score)[:top],
        operations=sorted(operations, key=lambda row: -row.score)[:top],
        unknown=len(seen.visits) - len(judged),
    )


def _judge(visits: _Visits, usual: _Visits) -> _Judged:
    ordered = sorted(usual.times)
    limit = quantile(ordered, USUAL)
    over = [seconds - limit for seconds in visits.times if seconds > limit]
    above = len(over) / len(visits.times)
    # The k-th of n values is exceeded by the next one with 1 - k / (n + 1): with few values a p95 says little.
    chance = 1 - math.ceil(USUAL * len(ordered)) / (len(ordered) + 1)
    return _Judged(visits, sum(over) * max(0.0, (above - chance) / (1 - chance)), limit, above)


def _culprits(judged: dict[Key, _Judged]) -> dict[Key, str]:
    """The service that each operation counts for. A pair of services is inflated when most of its calls are."""
    calls: dict[tuple[str, str], list[_Judged]] = defaultdict(list)
    for (service, _, callee), one in judged.items():
        if callee:
            calls[service, callee].append(one)
    inflated: dict[str, list[bool]] = defaultdict(list)
    for pair, members in calls.items():
        mostly = sum((one.above - 0.5) * len(one.visits.times) for one in members) > 0
        for service in pair:
            inflated[service].append(mostly)
    share = {service: sum(pairs) / len(pairs) for service, pairs in inflated.items()}
    return {
        key: key[0] if not key[2] or share[key[0]] > share[key[2]] else key[2]  # of equals, the one that answers
        for key in judged
    }


def _operation(key: Key, one: _Judged, culprit: str, seen: Profile, score: float) -> OperationRow:
    slowest, trace = max(zip(one.visits.times, one.visits.traces, strict=True))
    return OperationRow(
        service=key[0], name=key[1], callee=key[2], culprit=culprit, score=score,
        self_time=sum(one.visits.times), visits=len(one.visits.times), usual=one.usual, above=one.above,
        slowest=slowest, slowest_trace=seen.trace_ids[trace],
    )  # fmt: skip


def _service(name: str, members: list[_Judged], *, per_trace: bool) -> ServiceRow:
    traces = len({trace for one in members for trace in one.visits.traces})
    excess = sum(one.excess for one in members)
    return ServiceRow(
        service=name, score=excess / traces if per_trace else excess,
        self_time=sum(sum(one.visits.times) for one in members), traces=traces,
    )  # fmt: skip
