"""Opens the two sides of a comparison: a home folder, a file of OTLP JSON lines, or one release in a store."""

from __future__ import annotations

import gzip
import lzma
from collections import defaultdict
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
    from typing import TypeAlias

    from otel_perf.analysis.bottlenecks import Bottleneck
    from otel_perf.store.database import Batch

    Wanted: TypeAlias = Callable[[str, str], bool]  # of a service and its release

RELEASE: Final = "version="
NAMED: Final = 10  # services or releases that a complaint names
_OPENERS: Final[dict[str, Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Side:
    """What one side holds, of ``service`` (empty: all), and of the releases of each that are ``wanted``.

    ``held`` are all services that are there, so that one that is misspelt can be told.
    """

    def __init__(
        self, name: str, batches: Callable[[str], Iterable[Batch]], service: str = "", wanted: Wanted | None = None
    ) -> None:
        self.name = name
        self.held: set[str] = set()

        def is_wanted(resource: dict[str, Any]) -> bool:
            name, version = _release_of(resource)
            self.held.add(name)
            return service in {"", name} and (wanted is None or wanted(name, version))

        self.samples = Samples(
            (span for span in otlp.spans(batches("traces")) if is_wanted(span.resource)),
            (point for point in otlp.points(batches("metrics")) if is_wanted(point.resource)),
        )
        found = Bottlenecks()
        for entry in otlp.logs(batches("logs")):
            if is_wanted(entry.resource):
                found.add(entry)
        self.bottlenecks: list[Bottleneck] = found.rows()


def open_sides(where: str, store: Callable[[], StoreReader], service: str = "", since_ns: int = 0) -> tuple[Side, Side]:
    """The base that ``where`` names, and what is judged: the store that ``store`` opens.

    Of a store that also holds the base, it is of each service the release that was seen last. ``since_ns`` is of what
    is judged alone. Raises ``SettingError`` where there is nothing of that name, it cannot be read, or it is what is
    judged itself.
    """
    if where.startswith(RELEASE):
        return _releases(where, store, service, since_ns)
    base, judged = open_side(where, service), store()
    if judged.path.resolve() in {Path(where).resolve(), (Path(where) / STORE_FILE).resolve()}:
        judged.close()
        raise SettingError(f"{where} is what is judged itself; give the home of other runs, or {RELEASE}1.2.3")
    return base, _of_store(str(judged.path), judged, service, since_ns=since_ns)


def open_side(where: str, service: str = "") -> Side:
    """The home folder or file that ``where`` names. Raises ``SettingError`` where it is none, or cannot be read."""
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


def _of_store(name: str, store: StoreReader, service: str, wanted: Wanted | None = None, since_ns: int = 0) -> Side:
    try:
        return Side(name, lambda signal: store.batches([signal], since_ns=since_ns), service, wanted)
    finally:
        store.close()


def _releases(where: str, store: Callable[[], StoreReader], service: str, since_ns: int) -> tuple[Side, Side]:
    """Services have releases of their own: those are compared that have the base and another one."""
    base = where.removeprefix(RELEASE)
    if not base:
        raise SettingError(f"{where} names no release; give one like {RELEASE}1.2.3")
    held = {name: found for name, found in _last_seen(store(), 0).items() if service in {"", name}}
    recent = _last_seen(store(), since_ns) if since_ns else held
    before = {name for name, found in held.items() if base in found}
    if not before:
        there = sorted({f"{RELEASE}{version}" for found in held.values() for version in found})
        what = f"service {service}" if service else "service"
        raise SettingError(
            f"the store has no {what} with {where}; "
            + (f"it has {', '.join(there[:NAMED])}" if there else "set service.version in OTEL_RESOURCE_ATTRIBUTES")
        )
    others = {name: {v: at for v, at in recent.get(name, {}).items() if v != base} for name in before}
    latest = {name: max(found, key=lambda version: found[version]) for name, found in others.items() if found}
    if not latest:
        raise SettingError(
            f"the store has no other release than {where} of {', '.join(sorted(before)[:NAMED])}"
            f"{' within --since' if since_ns else ''}: run another one, with its service.version in "
            "OTEL_RESOURCE_ATTRIBUTES"
        )
    return (
        _of_store(where, store(), service, lambda name, version: version == base and name in latest),
        _of_store(_named(latest), store(), service, lambda name, version: latest.get(name) == version, since_ns),
    )


def _last_seen(store: StoreReader, since_ns: int) -> dict[str, dict[str, int]]:
    """When each release of each service was seen last."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    try:
        spans = ((span.resource, span.start) for span in otlp.spans(store.batches(["traces"], since_ns=since_ns)))
        points = ((point.resource, point.time) for point in otlp.points(store.batches(["metrics"], since_ns=since_ns)))
        for resource, time in chain(spans, points):
            name, version = _release_of(resource)
            if version:
                found[name][version] = max(time, found[name].get(version, 0))
    finally:
        store.close()
    return found


def _release_of(resource: dict[str, Any]) -> tuple[str, str]:
    return otlp.service_of(resource), str(resource.get("service.version", ""))


def _named(releases: dict[str, str]) -> str:
    """``version=1.1``, or where they differ ``version=1.1 of orders, 2.3 of stock``."""
    if len(set(releases.values())) == 1:
        return f"{RELEASE}{next(iter(releases.values()))}"
    return RELEASE + ", ".join(f"{version} of {name}" for name, version in sorted(releases.items()))


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
