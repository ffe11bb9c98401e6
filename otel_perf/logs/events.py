"""Business events: what happened in the app's own terms, as OpenTelemetry events with the ids of the current trace.

An event is a name and fields. A Pydantic model may be registered for a name and version; then the fields are checked
against it. One that does not fit is an error in tests (:func:`otel_perf.core.guard.strict`, which
:mod:`otel_perf.testing` turns on); in production it is kept with what was given, marked and counted.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from opentelemetry.trace import INVALID_SPAN_CONTEXT

from otel_perf.core.census import Metric
from otel_perf.core.errors import EventError
from otel_perf.core.events import BUSINESS_SCOPE, not_mirrored
from otel_perf.core.guard import Guard, is_strict
from otel_perf.core.ids import KEY, SPAN_KEY, explicit, now
from otel_perf.logs.emit import Emitter
from otel_perf.logs.event_models import Registered
from otel_perf.logs.export import encodable, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack

    from pydantic import BaseModel

    from otel_perf.core.census import Reading
    from otel_perf.core.feature import Host

    M = TypeVar("M", bound=BaseModel)

EVENTS: Final = Metric("perf.events", "{event}", "counter", "Business events, by event.name")
INVALID_EVENTS: Final = Metric(
    "perf.events.invalid", "{event}", "counter", "Business events that are not what was registered, by event.name"
)
VERSION: Final = "perf.event.version"  # of the model that it was checked against
INVALID: Final = "perf.event.invalid"  # why it is not what was registered
UNNAMED: Final = "invalid_event"  # the name of one that was given none

NAMES: Final = 200  # counted by name; the others are "other"
LONGEST_NAME: Final = 255  # characters
LONGEST: Final = 65_536  # characters of a text
LEAST, MOST = -(2**63), 2**63 - 1  # of whole numbers that OTLP can carry
FIELDS: Final = 120  # of an event; the SDK's own limit is 128 with what is added here


class Tally:
    """What was counted under one name. An addition has no call in it, within which CPython would change threads."""

    __slots__ = ("invalid", "made", "wrong")

    def __init__(self, wrong: str = "") -> None:
        self.made = self.invalid = 0
        self.wrong = wrong  # with the name itself


class Events:
    """The business events of the process. Thread-safe; a forked child counts anew."""

    def __init__(self) -> None:
        self.on = False
        self.guard = Guard("logs.events")
        self.tallies: dict[str, Tally] = {}
        self._by_model: dict[type[Any], Registered] = {}
        self._by_version: dict[tuple[str, int], Registered] = {}
        self._latest: dict[str, Registered] = {}
        self._emitter = Emitter(BUSINESS_SCOPE)

    @overload
    def register(self, name: str, model: type[M], *, version: int = 1, span_event: bool = True) -> type[M]: ...
    @overload
    def register(self, name: str, *, version: int = 1, span_event: bool = True) -> Callable[[type[M]], type[M]]: ...
    def register(
        self, name: str, model: type[M] | None = None, *, version: int = 1, span_event: bool = True
    ) -> type[M] | Callable[[type[M]], type[M]]:
        """Say what the event ``name`` has to be: call it with a Pydantic model, or decorate one.

        ``business_event(name, …)`` is checked against the model with the highest ``version``, by the model's own
        configuration (types are converted where it converts them); a field that it does not declare is wrong unless
        its configuration allows extra ones. ``business_event(Model(…))`` is of its model's version. With
        ``span_event=False`` no event of that name becomes a span event as well.

        Raises ``ValueError`` for a name or version that cannot be, or that another model has, and ``TypeError`` for
        what is no Pydantic model.
        """
        wrong = wrong_name(name)
        if wrong:
            raise ValueError(f"events.register: name {name!r} {wrong}")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"events.register: version={version!r} of {name!r} must be a whole number from 1 on")

        def decorate(found: type[M]) -> type[M]:
            self._register(Registered(name, version, found), span_event)
            return found

        return decorate if model is None else decorate(model)

    def _register(self, registered: Registered, span_event: bool) -> None:
        key = registered.name, registered.version
        known = self._by_version.get(key)
        if known is not None and known.where != registered.where:  # the same one again: its module was reloaded
            raise ValueError(
                f"event {key[0]!r} version {key[1]} is registered already, by {known.where}: "
                f"give {registered.where} version={max(v for n, v in self._by_version if n == key[0]) + 1}"
            )
        self._by_version[key] = self._by_model[registered.model] = registered
        latest = self._latest.get(key[0])
        if latest is None or latest.version <= key[1]:
            self._latest[key[0]] = registered
        if span_event:
            not_mirrored.discard(key[0])
        else:
            not_mirrored.add(key[0])

    # --- emitting ----------------------------------------------------------------------------------

    def emit(self, event: Any, fields: dict[str, Any]) -> None:
        """Emit one. Raises ``EventError`` under strict, and nothing else."""
        try:
            self._emit(event, fields)
        except EventError:
            raise
        except Exception as error:
            self.guard.handle(error)

    def _emit(self, event: Any, fields: dict[str, Any]) -> None:
        reason, registered = "", None
        if type(event) is str:
            name, registered = event, self._latest.get(event)
        else:
            name, registered, fields, reason = self._of(event, fields)
        tally = self.tallies.get(name)
        if tally is None or tally.wrong:
            wrong = wrong_name(name)
            reason = reason or (f"name {name[:LONGEST_NAME]!r} {wrong}" if wrong else "")
            name = "".join(sign if sign.isprintable() else "?" for sign in name[:LONGEST_NAME]).strip() or UNNAMED
            tally = self._tally(name, wrong)
        if registered is not None and not reason and type(event) is not registered.model:
            fields, reason = registered.check(fields, show=is_strict())
        attributes = self._attributes(fields)
        if registered is not None:
            attributes[VERSION] = registered.version
        tally.made += 1
        if reason:
            tally.invalid += 1
            if is_strict():
                raise EventError(f"business_event {name!r}: {reason}")
            attributes[INVALID] = reason
        context = now()
        span: Any = context.get(SPAN_KEY)
        ids = INVALID_SPAN_CONTEXT if span is None else span.get_span_context()
        correlation = explicit(context)  # without one it is the trace id, which is there
        if correlation:
            attributes[KEY] = correlation
        self._emitter.emit(name, attributes, context, ids, timestamp=time_ns())

    def _of(self, event: Any, fields: dict[str, Any]) -> tuple[str, Registered | None, dict[str, Any], str]:
        """Name, model, fields and what is wrong, of what is not a plain text."""
        if isinstance(event, str):  # a member of an enumeration
            name = str.__str__(event)
            return name, self._latest.get(name), fields, ""
        kind = type(event)
        registered = self._by_model.get(kind)
        if registered is None:
            shown: dict[str, Any] = {"perf.event.given": event}
            if hasattr(kind, "__pydantic_serializer__"):
                shown = Registered(kind.__name__, 1, kind).dump(event)
                return kind.__name__, None, {**fields, **shown}, (
                    f"{kind.__module__}.{kind.__qualname__} is not registered; "
                    f"decorate it with @events.register('its.name')"
                )  # fmt: skip
            return UNNAMED, None, {**fields, **shown}, "give it a name, or an instance of a registered Pydantic model"
        given = registered.dump(event)
        if fields:
            names = ", ".join(sorted(fields))
            return registered.name, registered, {**given, **fields}, f"{names}: put it into {registered.where} itself"
        return registered.name, registered, given, ""

    @staticmethod
    def _attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for key, value in fields.items():
            if not key.isascii() or not key:
                key = encodable(key) or "?"  # noqa: PLW2901 - one that OTLP takes
            kind = type(value)
            if (
                (kind is str and len(value) <= LONGEST and value.isascii())
                or kind is float
                or kind is bool
                or (kind is int and LEAST <= value <= MOST)
            ):
                attributes[key] = value
            else:
                attributes[key] = _carried(value)
            if len(attributes) >= FIELDS:
                attributes["perf.event.fields"] = len(fields)  # how many there were
                break
        return attributes

    # --- counting ----------------------------------------------------------------------------------

    def _tally(self, name: str, wrong: str) -> Tally:
        if name not in self.tallies and len(self.tallies) >= NAMES:
            return self.tallies.setdefault("other", Tally())
        return self.tallies.setdefault(name, Tally(wrong))

    def made(self) -> Iterable[Reading]:
        """By name, since the start."""
        return [(tally.made, {"event.name": name}) for name, tally in self.tallies.copy().items()]

    def invalid(self) -> Iterable[Reading]:
        """By name, since the start; those of which there is one at least."""
        found = self.tallies.copy().items()
        return [(tally.invalid, {"event.name": name}) for name, tally in found if tally.invalid]

    def after_fork_in_child(self) -> None:
        """What the parent counted, the parent reports."""
        self.tallies = {}

    def install(self, host: Host, guard: Guard, undo: ExitStack) -> None:
        """Emit them from now on, until the undo."""
        from otel_perf.core.forks import on_fork

        self.guard, self.on = guard, True
        undo.callback(setattr, self, "on", False)
        undo.callback(on_fork(child=self.after_fork_in_child))
        undo.callback(host.census.add(EVENTS, self.made))
        undo.callback(host.census.add(INVALID_EVENTS, self.invalid))


def _carried(value: Any) -> Any:
    """What is neither a short text nor a number, as OTLP can carry it."""
    try:
        found = plain(value)
    except Exception:  # a whole number of so many digits that Python does not write it
        found = f"<{type(value).__name__}>"
    return found[:LONGEST] + "…" if type(found) is str and len(found) > LONGEST else found


def wrong_name(name: object) -> str:
    """What is wrong with the name of an event; empty if nothing is."""
    if not isinstance(name, str) or not name.strip():
        return "is no name: give it one like 'order.placed'"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters: {LONGEST_NAME} are enough"
    if not name.isprintable() or name != name.strip():
        return "has characters that nobody sees: leave them out"
    if name.startswith("perf."):
        return "begins like otel-perf's own events: choose another"
    return ""


events: Final = Events()
"""Where what an event has to be is registered: :meth:`Events.register`."""


@overload
def business_event(event: str, /, **fields: object) -> None: ...
@overload
def business_event(event: BaseModel, /) -> None: ...
def business_event(event: object, /, **fields: object) -> None:
    """Say that something happened: an OpenTelemetry event with these fields and the ids of the current trace.

    ``event`` is a name like ``"order.placed"``, or an instance of a Pydantic model that was registered
    (``events.register``). The event is a log record with an ``event_name``, and an event of the current span as well.
    What OTLP cannot carry becomes text; texts longer than 65,536 characters are cut, fields after the 120th left out.

    About 7 µs with the span event; the encoding is done in the exporter's thread. Thread-safe. Does nothing where the
    distribution is off. Raises ``EventError`` in tests for an event that is not what was registered, or has no proper
    name; otherwise never: it is kept, with ``perf.event.invalid`` saying why, and counted in ``perf.events.invalid``.
    """
    if events.on or is_strict():
        events.emit(event, fields)
