"""What a home folder holds, as flat records."""

from otel_perf.analysis import otlp
from otel_perf.core.events import BOTTLENECK
from otel_perf.core.health import CHANGED
from otel_perf.core.home import STORE_FILE
from otel_perf.memory.pressure import PRESSURE
from otel_perf.store.database import SIGNALS, StoreReader

MACHINES = {BOTTLENECK.name, CHANGED.name, PRESSURE.name}  # events that a machine makes that is busy


def _read(home, signal, decode):
    if not (home / STORE_FILE).exists():
        return []
    reader = StoreReader(home)
    try:
        return list(decode(reader.batches([signal])))
    finally:
        reader.close()


def batches(home, *signals):
    """The stored batches as they are."""
    reader = StoreReader(home)
    try:
        return list(reader.batches(signals or SIGNALS))
    finally:
        reader.close()


def waiting(home):
    """How many spans wait to be sent."""
    reader = StoreReader(home)
    try:
        return reader.pending().get("traces", (0, 0))[1]
    finally:
        reader.close()


def spans(home):
    """Every stored span; none if there is no store yet."""
    return _read(home, "traces", otlp.spans)


def logs(home):
    """Every stored log record and event."""
    return _read(home, "logs", otlp.logs)


def apps_logs(home):
    """Every stored log record and event that does not come of how busy the machine is."""
    return [entry for entry in logs(home) if entry.event_name not in MACHINES]


def apps_events(span):
    """(name, attributes) of the events of a stored span that do not come of how busy the machine is."""
    return tuple(event for event in span.events if event[0] not in MACHINES)


def lines(home):
    """Every stored log record that is no event: what the app logged."""
    return [entry for entry in logs(home) if not entry.event_name]


def events(home, name):
    """Every stored event of that name."""
    return [entry for entry in logs(home) if entry.event_name == name]


def points(home):
    """Every stored data point."""
    return _read(home, "metrics", otlp.points)


def key_of(span):
    """What identifies a span everywhere."""
    return span.trace_id, span.span_id


def process_of(span):
    """The process that made it, as its resource says."""
    return span.resource["service.instance.id"]
