"""Opens the two sides of a comparison: a home folder, a file of OTLP JSON lines, or one release in a store."""

from __future__ import annotations

import gzip
import lzma
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis import otlp
from otel_perf.analysis.bottlenecks import Bottlenecks
from otel_perf.analysis.samples import Samples
from otel_perf.core.errors import SettingError
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import StoreReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_perf.analysis.bottlenecks import Bottleneck
    from otel_perf.store.database import Batch

RELEASE: Final = "version="
_OPENERS: Final[dict[str, Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Side:
    """What one side holds, of ``service`` (empty: all) and of the release that ``version`` names (empty: all)."""

    def __init__(self, name: str, batches: Callable[[str], Iterable[Batch]], service: str, version: str = "") -> None:
        self.name = name

        def wanted(resource: dict[str, Any]) -> bool:
            return (not service or resource.get("service.name") == service) and (
                not version or resource.get("service.version") == version
            )

        self.samples = Samples(
            (span for span in otlp.spans(batches("traces")) if wanted(span.resource)),
            (point for point in otlp.points(batches("metrics")) if wanted(point.resource)),
        )
        found = Bottlenecks()
        for entry in otlp.logs(batches("logs")):
            if wanted(entry.resource):
                found.add(entry)
        self.bottlenecks: list[Bottleneck] = found.rows()


def open_side(where: str, store: Callable[[], StoreReader], service: str = "") -> Side:
    """The side that ``where`` names; ``store`` opens the store in which ``version=…`` looks.

    Raises ``SettingError`` where there is nothing of that name, or it cannot be read.
    """
    if where.startswith(RELEASE):
        return _of_store(where, store(), service, version=where.removeprefix(RELEASE))
    path = Path(where)
    if path.is_dir():
        return _of_store(where, StoreReader(path), service)
    if path.name == STORE_FILE and path.exists():
        return _of_store(where, StoreReader(path.parent), service)
    if path.exists():
        return Side(where, lambda signal: _lines(path, signal), service)
    raise SettingError(
        f"{where}: no such folder or file; give a home folder, what otel-perf export wrote, or {RELEASE}1.2.3"
    )


def _of_store(name: str, store: StoreReader, service: str, version: str = "", since_ns: int = 0) -> Side:
    try:
        return Side(name, lambda signal: store.batches([signal], since_ns=since_ns), service, version)
    finally:
        store.close()


def seen_side(store: StoreReader, base: str, service: str, since_ns: int) -> Side:
    """The side that is judged: the whole store, or of one that also holds the base, the release that was seen last."""
    if not base.startswith(RELEASE):
        return _of_store(str(store.path), store, service, since_ns=since_ns)
    latest, version = 0, ""
    spans = ((span.resource, span.start) for span in otlp.spans(store.batches(["traces"], since_ns=since_ns)))
    points = ((point.resource, point.time) for point in otlp.points(store.batches(["metrics"], since_ns=since_ns)))
    for resource, time in chain(spans, points):
        release = str(resource.get("service.version", ""))
        if release and release != base.removeprefix(RELEASE) and time >= latest:
            latest, version = time, release
    if not version:
        store.close()
        raise SettingError(
            f"the store has no other release than {base}: set service.version in OTEL_RESOURCE_ATTRIBUTES"
        )
    return _of_store(f"{RELEASE}{version}", store, service, version, since_ns)


def _lines(path: Path, signal: str) -> Iterator[Batch]:
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                batch = _batch(path, number, line)
                if batch is not None and batch.signal == signal:
                    yield batch
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error


def _batch(path: Path, number: int, line: str) -> Batch | None:
    try:
        return otlp.from_json(line) if line.strip() else None
    except ValueError as error:
        raise SettingError(f"{path}: line {number} is no OTLP JSON: {error}; otel-perf export writes some") from error
