"""What a home folder holds, as flat records."""

from otel_perf.analysis import otlp
from otel_perf.store.database import FILE, StoreReader


def _batches(home, signal):
    return StoreReader(home).batches([signal]) if (home / FILE).exists() else ()


def spans(home):
    return list(otlp.spans(_batches(home, "traces")))


def logs(home):
    return list(otlp.logs(_batches(home, "logs")))


def points(home):
    return list(otlp.points(_batches(home, "metrics")))
