"""Measures log lines, events or drops whenever it is asked to. Argument: SUBJECT, one of SUBJECTS.

Says ``{"made": …}``, package and version, when it is ready. Then, for each line that it reads, it makes a slice of some
milliseconds and says what one took: ``line`` (a message with two arguments), ``extras`` (with two extras besides),
``error`` (with an exception) and ``event``. At ``end`` it says which part of what should be in the file is there.
Lines go to a file; nothing is exported, but for events, which go into the store.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from time import process_time, thread_time, time_ns
from typing import Any, Final

SLICE: Final = 0.02  # seconds that one should take
LONGEST: Final = 20_000  # calls in one
FILE: Final = Path("app.log")
NAMES: Final = ("bob", "eve", "mallory", "trent")
ERROR: Final = ValueError("no stock")

Call = Callable[[int], object]


@dataclass(slots=True)
class Subject:
    """What is measured."""

    package: str
    calls: dict[str, Call]
    around: Callable[[], AbstractContextManager[object]] = nullcontext  # each slice
    written: bool = True  # every call is a line; else none is
    has: str = ""  # what every line has


# --- the standard library's logging ---------------------------------------------------------------------


def standard(formatter: logging.Formatter | None, package: str, **more: Any) -> Subject:
    """A logger with one file handler."""
    log = logging.getLogger("shop.orders")
    log.setLevel(logging.INFO)
    handler = logging.FileHandler(FILE, mode="w", encoding="utf-8")
    handler.setFormatter(formatter)
    log.addHandler(handler)

    def line(number: int) -> None:
        log.info("order %d placed by %s", number, NAMES[number & 3])

    def extras(number: int) -> None:
        log.info("order %d placed by %s", number, NAMES[number & 3], extra={"order_id": number, "amount": 99.5})

    def error(number: int) -> None:
        log.error("order %d failed", number, exc_info=ERROR)

    return Subject(package, {"line": line, "extras": extras, "error": error}, **more)


def floor() -> Subject:
    """The twelve lines that one writes by hand."""
    import msgspec

    class Json(logging.Formatter):
        own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
        encode = msgspec.json.Encoder(enc_hook=str).encode

        def format(self, record: logging.LogRecord) -> str:
            line: dict[str, Any] = {"timestamp": dt.datetime.fromtimestamp(record.created, dt.UTC)}
            line |= {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
            line |= {"file": record.pathname, "line": record.lineno, "function": record.funcName}
            line |= {key: value for key, value in record.__dict__.items() if key not in self.own}
            if record.exc_info:
                line["exception"] = self.formatException(record.exc_info)
            return self.encode(line).decode()

    return standard(Json(), "msgspec")


def bare_floor() -> Subject:
    """The same, as little as it can be: no place in the code, the time a number."""
    import msgspec

    class Json(logging.Formatter):
        own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
        encode = msgspec.json.Encoder(enc_hook=str).encode

        def format(self, record: logging.LogRecord) -> str:
            line: dict[str, Any] = {"timestamp": record.created, "level": record.levelname, "logger": record.name}
            line["message"] = record.getMessage()
            line |= {key: value for key, value in record.__dict__.items() if key not in self.own}
            if record.exc_info:
                line["exception"] = self.formatException(record.exc_info)
            return self.encode(line).decode()

    return standard(Json(), "msgspec")


def text() -> Subject:
    """No JSON: logging's own formatter."""
    form = "%(asctime)s %(levelname)s [%(name)s] [%(filename)s:%(lineno)d] %(message)s"
    return standard(logging.Formatter(form), "otel-perf")


def json_logger(encoder: str) -> Subject:
    """python-json-logger."""
    from importlib import import_module

    fields_ = "%(asctime)s %(levelname)s %(name)s %(pathname)s %(lineno)d %(funcName)s %(message)s"
    module = import_module(f"pythonjsonlogger.{encoder}")
    kind = {"json": "JsonFormatter", "msgspec": "MsgspecFormatter", "orjson": "OrjsonFormatter"}[encoder]
    return standard(getattr(module, kind)(fields_), "python-json-logger")


# --- otel-perf -----------------------------------------------------------------------------------------


def set_up(**variables: str) -> Any:
    """otel-perf as a user starts it, nothing exported unless asked for."""
    quiet = {
        "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false",
    }  # fmt: skip
    os.environ.update({**quiet, **variables})
    import otel_perf

    otel_perf.setup()
    return otel_perf


def in_a_span() -> AbstractContextManager[object]:
    """What a request is in."""
    from opentelemetry import trace

    return trace.get_tracer("bench").start_as_current_span("request")


def ours(**variables: str) -> Subject:
    """Our JSON line with ids."""
    set_up(OTEL_PERF_LOGS_FORMAT="json", **variables)
    name = "trace.id" if variables.get("OTEL_PERF_LOGS_FIELDS") == "ecs" else "trace_id"
    return standard(None, "otel-perf", around=in_a_span, has=f'"{name}":"')


def stamped() -> Subject:
    """The twelve lines of the floor under otel-perf, which puts the ids on every record."""
    set_up()
    made = floor()
    made.around, made.has = in_a_span, '"otelTraceID":"'
    return made


def exported() -> Subject:
    """Our JSON line, and the record exported into the store as well."""
    return ours(OTEL_LOGS_EXPORTER="otlp", OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION="true")


# --- others --------------------------------------------------------------------------------------------


def structured(renderer: str) -> Subject:
    """structlog, as its documentation has it for performance (orjson), and as most have it (json)."""
    import structlog

    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso")]
    if renderer == "orjson":
        import orjson

        factory: Any = structlog.BytesLoggerFactory(file=FILE.open("wb"))
        processors.append(structlog.processors.JSONRenderer(serializer=orjson.dumps))
    else:
        factory = structlog.WriteLoggerFactory(file=FILE.open("w"))
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=[structlog.processors.format_exc_info, *processors], logger_factory=factory,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO), cache_logger_on_first_use=True,
    )  # fmt: skip
    log = structlog.get_logger()
    return Subject(
        "structlog",
        {
            "line": lambda number: log.info("order placed", order=number, by=NAMES[number & 3]),
            "extras": lambda number: log.info("order placed", order=number, by=NAMES[number & 3], id=1, amount=99.5),
            "error": lambda number: log.error("order failed", order=number, exc_info=ERROR),
        },
    )


def serialized() -> Subject:
    """With loguru."""
    from loguru import logger

    logger.remove()
    logger.add(FILE, serialize=True)
    return Subject(
        "loguru",
        {
            "line": lambda number: logger.info("order {} placed by {}", number, NAMES[number & 3]),
            "extras": lambda number: logger.bind(order_id=number, amount=99.5).info("order {} placed", number),
            "error": lambda number: logger.opt(exception=ERROR).error("order {} failed", number),
        },
    )


# --- drops and events ----------------------------------------------------------------------------------


def dropped_by_a_filter() -> Subject:
    """The standard library's own way."""
    made = standard(None, "otel-perf", written=False)
    logging.getLogger("shop.orders").addFilter(lambda _record: False)
    return Subject("otel-perf", {"drop": made.calls["line"]}, written=False)


def dropped(setting: str, value: str) -> Subject:
    """By a rule of ours."""
    from otel_perf.logs.settings import LogsSettings

    if setting not in {item.name for item in fields(LogsSettings)}:
        sys.exit("not there yet")
    set_up(**{f"OTEL_PERF_LOGS_{setting.upper()}": value})
    line = standard(None, "otel-perf").calls["line"]
    line(0)  # a rate lets the first one pass
    FILE.write_text("")
    return Subject("otel-perf", {"drop": line}, around=in_a_span, written=False)


def business() -> Subject:
    """A business event into the store."""
    perf = set_up(OTEL_LOGS_EXPORTER="otlp")
    emit = getattr(perf, "business_event", None)
    if emit is None:
        sys.exit("not there yet")
    return Subject(
        "otel-perf",
        {"event": lambda number: emit("order.placed", order_id=number, amount=99.5)},
        around=in_a_span,
        written=False,
    )


def sdk_event() -> Subject:
    """The same with the SDK's own calls: a log record with a name, and an event of the span; exported nowhere."""
    from opentelemetry import _logs, trace
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
    from opentelemetry.sdk.trace import TracerProvider

    class Nowhere(InMemoryLogRecordExporter):
        def export(self, batch: Any) -> Any:
            made = super().export(batch)
            self.clear()
            return made

    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(Nowhere()))
    _logs.set_logger_provider(provider)
    trace.set_tracer_provider(TracerProvider())
    logger = provider.get_logger("bench")

    def event(number: int) -> None:
        attributes = {"order_id": number, "amount": 99.5}
        logger.emit(
            _logs.LogRecord(
                timestamp=time_ns(), severity_number=_logs.SeverityNumber.INFO, severity_text="INFO",
                attributes=attributes, event_name="order.placed",
            )
        )  # fmt: skip
        trace.get_current_span().add_event("order.placed", attributes)

    return Subject("opentelemetry-sdk", {"event": event}, around=in_a_span, written=False)


SUBJECTS: Final[dict[str, Callable[[], Subject]]] = {
    "floor": floor,
    "bare-floor": bare_floor,
    "text": text,
    "ours-keys": lambda: ours(OTEL_PERF_LOGS_REDACT="keys"),
    "ours": ours,
    "ours-ecs": lambda: ours(OTEL_PERF_LOGS_FIELDS="ecs"),
    "ours-exported": exported,
    "stamped": stamped,
    "json-logger": lambda: json_logger("json"),
    "json-logger-msgspec": lambda: json_logger("msgspec"),
    "json-logger-orjson": lambda: json_logger("orjson"),
    "structlog-orjson": lambda: structured("orjson"),
    "structlog": lambda: structured("json"),
    "loguru": serialized,
    "filter": dropped_by_a_filter,
    "level-rule": lambda: dropped("levels", "shop.orders=ERROR"),
    "logger-rule": lambda: dropped("levels", "shop.*=ERROR"),
    "template-rule": lambda: dropped("rate", "1/h"),
    "business": business,
    "sdk-event": sdk_event,
}


class Slices:
    """Makes slices, and counts what it made."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lengths: dict[str, int] = {}
        self.made = self.found = 0

    def one(self, kind: str) -> dict[str, float]:
        """CPU nanoseconds of a call, of this thread and of the process."""
        call = self._subject.calls[kind]
        length = self._lengths.get(kind) or self._length(kind)
        self._forget()
        with self._subject.around():
            gc.collect()
            process, thread = process_time(), thread_time()
            for number in range(length):
                call(number)
            thread, process = thread_time() - thread, process_time() - process
        self._look(length)
        return {"thread": thread / length * 1e9, "process": process / length * 1e9}

    def _length(self, kind: str) -> int:
        call = self._subject.calls[kind]
        with self._subject.around():
            for number in range(200):
                call(number)
            began = thread_time()
            for number in range(200):
                call(number)
            took = (thread_time() - began) / 200
        self._lengths[kind] = length = max(50, min(LONGEST, int(SLICE / max(took, 1e-7))))
        return length

    def _forget(self) -> None:
        self._before = FILE.stat().st_size if FILE.exists() else 0

    def _look(self, length: int) -> None:
        self.made += length
        if not FILE.exists():
            return
        with FILE.open("rb") as file:
            file.seek(self._before)
            lines = file.read().splitlines()
        has = self._subject.has.encode()
        self.found += sum(has in line for line in lines)

    def part(self) -> float:
        """The part of the calls that did what they should."""
        return self.found / self.made if self._subject.written else 1 - self.found / self.made


def main() -> None:
    """Answer until there is nothing more to answer."""
    subject = SUBJECTS[sys.argv[1]]()
    slices = Slices(subject)
    say(made=f"{subject.package} {version(subject.package)}")
    for line in sys.stdin:
        word = line.strip()
        if word == "end":
            say(recorded=slices.part() if slices.made else None)
            sys.stdout.flush()
            os._exit(0)  # without the flush of what is exported, which is no part of this
        say(**slices.one(word))


def say(**what: object) -> None:
    """One line of JSON."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
