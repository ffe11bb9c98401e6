"""A JSON line is one valid line, whatever is logged, and says what the record says."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import http
import io
import json
import logging
import pathlib
import sys
import threading
import tracemalloc
import types
import typing
import uuid

import jsonschema
import pytest
from opentelemetry import trace

from otel_perf.logs.correlation import SAMPLED, SERVICE_NAME, SPAN_ID, TRACE_ID, stamp
from otel_perf.logs.json_format import SITES, Encoder
from otel_perf.logs.json_parts import shares
from otel_perf.logs.line_parts import CORRELATION_ID
from otel_perf.logs.record import MODELS, schema
from otel_perf.logs.redaction import Redactor
from tests.log_lines import check

FIELDS = ("otel", "ecs")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def record(msg="x", *args, exc_info=None, stack=None, name="shop.orders", level=logging.INFO, **extra):
    made = logging.getLogger(name).makeRecord(
        name, level, "/srv/shop.py", 12, msg, args, exc_info, "place", extra, stack
    )
    stamp(made, "shop")
    return made


def failed(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()


def line_of(made, fields="otel", limit=65_536):
    return check(Encoder("shop", fields=fields, limit=limit, redactor=Redactor()).line(made), fields, limit)


# --- what it says --------------------------------------------------------------------------------------


def test_a_line_has_the_records_fields():
    made = record("order %s placed", 17, order=17, price=9.5, gift=False, note=None, to="Köln")
    made.created = 1_764_123_657.123456
    made.__dict__.update({TRACE_ID: TRACE, SPAN_ID: SPAN, SAMPLED: True, CORRELATION_ID: "job-7"})
    assert line_of(made) == {
        "timestamp": "2025-11-26T02:20:57.123456Z",
        "severity_text": "INFO",
        "severity_number": 9,
        "body": "order 17 placed",
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_flags": "01",
        "correlation_id": "job-7",
        "schema_version": 1,
        "service.name": "shop",
        "scope.name": "shop.orders",
        "code.file.path": "/srv/shop.py",
        "code.line.number": 12,
        "code.function.name": "place",
        "process.pid": made.process,
        "thread.id": made.thread,
        "thread.name": "MainThread",
        "attributes": {"order": 17, "price": 9.5, "gift": False, "note": None, "to": "Köln"},
    }


def test_a_line_has_the_records_fields_by_elastics_names():
    made = record("order %s placed", 17, order=17, rows=[1, "a"], level=logging.WARNING, **{"http.route": "/o"})
    made.created = 1_764_123_657.5
    made.__dict__.update({TRACE_ID: TRACE, SPAN_ID: SPAN, SAMPLED: False, CORRELATION_ID: TRACE})
    line = Encoder("shop", fields="ecs").line(made)
    assert list(json.loads(line))[:3] == ["@timestamp", "log.level", "message"]  # what Elastic wants first
    assert check(line, "ecs") == {
        "@timestamp": "2025-11-26T02:20:57.500000Z",
        "log.level": "warning",
        "message": "order 17 placed",
        "trace.id": TRACE,
        "span.id": SPAN,
        "correlation.id": TRACE,
        "ecs.version": "8.11.0",
        "event.severity": 30,
        "service.name": "shop",
        "log.logger": "shop.orders",
        "log.origin.file.name": "/srv/shop.py",
        "log.origin.file.line": 12,
        "log.origin.function": "place",
        "process.pid": made.process,
        "process.thread.id": made.thread,
        "process.thread.name": "MainThread",
        "labels": {"order": 17, "rows": '[1,"a"]', "http_route": "/o"},
    }


@pytest.mark.parametrize("fields", FIELDS)
def test_an_exception_is_taken_apart(fields):
    class Broken(Exception):
        pass

    found = line_of(record("failed", exc_info=failed(Broken("no stock")), level=logging.ERROR), fields)
    kind, message, stack = {
        "otel": ("exception.type", "exception.message", "exception.stacktrace"),
        "ecs": ("error.type", "error.message", "error.stack_trace"),
    }[fields]
    assert found[kind].endswith("test_an_exception_is_taken_apart.<locals>.Broken")
    assert found[kind].startswith("tests.logs.test_json_format.")
    assert found[message] == "no stock"
    assert found[stack].startswith("Traceback (most recent call last):\n  File")
    assert line_of(record("failed", exc_info=failed(KeyError("a"))))["exception.type"] == "KeyError"


def test_levels_are_named_as_they_are_exported():
    logging.addLevelName(25, "NOTICE")
    levels = {
        5: ("Level 5", 1),
        10: ("DEBUG", 5),
        20: ("INFO", 9),
        25: ("NOTICE", 12),
        30: ("WARN", 13),
        40: ("ERROR", 17),
        50: ("FATAL", 21),
    }
    for level, (text, number) in levels.items():
        found = line_of(record(level=level))
        assert (found["severity_text"], found["severity_number"]) == (text, number)


def test_a_line_without_a_span_has_no_ids():
    assert not {"trace_id", "span_id", "trace_flags", "correlation_id"} & set(line_of(record()))


def test_a_record_that_nobody_stamped_has_the_ids_of_the_current_span(perf_capture):
    made = record()
    for name in (TRACE_ID, SPAN_ID, SAMPLED, SERVICE_NAME):
        del made.__dict__[name]
    with trace.get_tracer("t").start_as_current_span("s") as span:
        found = line_of(made)
    assert found["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert found["service.name"] == "shop"


def test_a_record_of_another_service_keeps_its_name():
    made = record()
    made.__dict__[SERVICE_NAME] = "other"
    assert line_of(made)["service.name"] == "other"


def test_the_name_of_an_event_is_a_field():
    for name in ("event.name", "otel.event.name"):
        found = line_of(record(order=7, **{name: "order.placed"}))
        assert (found["event_name"], found["attributes"]) == ("order.placed", {"order": 7})


def test_a_message_that_is_a_dict_is_fields():
    found = line_of(record({"event": "placed", "order": 7, "token": "hunter2"}))
    assert (found["body"], found["attributes"]) == ("placed", {"order": 7, "token": "[redacted]"})


def test_stack_info_is_kept():
    assert line_of(record(stack="Stack (most recent call last):\n  a"))["code.stacktrace"].endswith("\n  a")


def test_uvicorns_copy_of_the_message_in_colours_is_left_out():
    assert "attributes" not in line_of(record(color_message="\x1b[1mx", name="uvicorn.error"))
    assert line_of(record(color_message="red"))["attributes"] == {"color_message": "red"}


class Colour(enum.Enum):
    RED = "red"


class Mode(str, enum.Enum):  # noqa: UP042
    FAST = "fast"


class Point(typing.NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Order:
    number: int
    card: str = dataclasses.field(default="hunter2", repr=False)


@pytest.mark.parametrize(("value", "shown"), [
    (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05"),
    (dt.timedelta(seconds=90), "0:01:30"),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, "red"),
    (Mode.FAST, "fast"),
    (http.HTTPStatus.OK, 200),
    (Point(1, 2), [1, 2]),
    ({1: {"a": (1, 2)}, None: 3}, {"1": {"a": [1, 2]}, "None": 3}),
    ({7}, [7]),
    (b"abc\xff", "abc\\xff"),
    (Order(7), "Order(number=7)"),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (float("nan"), None),
    ([float("inf")], [None]),
    (2**63, "9223372036854775808"),
    (-(2**63), -(2**63)),
    (10**6000, "<int of 19932 bits>"),
    (range(3), "range(0, 3)"),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.Counter("aa"), {"a": 2}),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_values_become_what_json_can_carry(value, shown):
    assert line_of(record(value=value))["attributes"] == {"value": shown}
    assert line_of(record(value=[value]))["attributes"] == {"value": [shown]}


# --- what may go wrong ---------------------------------------------------------------------------------


class Odd:
    def __repr__(self):
        raise RuntimeError

    __str__ = __hash__ = __eq__ = __repr__


class OddText(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError

    def encode(self, *_):
        raise RuntimeError

    def __len__(self):
        return -1  # noqa: PLE0303

    def __eq__(self, _):
        return True

    def __hash__(self):
        return 1


class OddInt(int):
    def __repr__(self):
        return "}"

    __str__ = __repr__

    def __lt__(self, _):
        raise RuntimeError


class OddDict(dict):
    def items(self):
        raise RuntimeError

    __iter__ = keys = __len__ = items


class OddList(list):
    def __iter__(self):
        raise RuntimeError

    __len__ = __iter__


class OddError(Exception):
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


class Liar:
    @property
    def __class__(self):
        raise RuntimeError


class NoText:
    def __repr__(self):
        return 7


def endless():
    made = []
    made.append(made)
    return made


def doubled(times):
    """2 to the power of ``times`` items in as many lists."""
    made = [1]
    for _ in range(times):
        made = [made, made]
    return made


def deep(levels):
    made = {}
    for _ in range(levels):
        made = {"a": made}
    return made


def frozen_cycle():
    made = {}
    made["self"] = (made, [made])
    return made


ODD = {
    "odd object": Odd(), "odd text": OddText("x\n"), "odd int": OddInt(7), "odd dict": OddDict(a=1), "odd list": OddList([1]),
    "liar": Liar(), "no text": NoText(), "endless": endless(), "doubled": doubled(60), "deep": deep(50_000),
    "cycle": frozen_cycle(), "surrogate": "a\udcff\ud800", "separators": "a\u2028b\u2029c\x85d\x1ce\x0bf\x0cg\rh",
    "nul": "\x00\x01\x7f", "long": "é\n\"" * 1_000_000, "many": list(range(1_000_000)), "wide": dict.fromkeys(range(300_000), "x"),
    "long key": {"k" * 1_000_000: 1}, "odd keys": {Odd: 1, 1.5: 2, (1,): 3, b"b": 4}, "bytes": b"\xff" * 1_000_000,
    "generator": (number for number in ()), "module": json, "type": Odd, "huge": -(10**5000),
    "emoji": "\N{GRINNING FACE}" * 40_000, "control": "\x01" * 60_000, "memory": memoryview(b"x"), "lock": threading.Lock(),
}  # fmt: skip


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("limit", [4096, 65_536])
@pytest.mark.parametrize("name", ODD)
def test_any_extra_gives_one_valid_line(name, limit, fields):
    found = line_of(record("x", value=ODD[name], other=[ODD[name]], kept=1), fields, limit)
    assert found["body" if fields == "otel" else "message"] == "x"
    found = line_of(record("%s %s", "x", ODD["long"], kept=1, value=ODD[name]), fields, limit)
    assert found["truncated" if fields == "otel" else "log.flags"]


# What logging itself would never be done with: str() of 2 to the power of 60 items.
ENDLESS = {"doubled"}


@pytest.mark.parametrize("name", sorted(ODD.keys() - ENDLESS))
def test_any_message_gives_one_valid_line(name):
    line_of(record(ODD[name]))
    for template in ("%s", "%d %s"):
        made = record(template)
        made.args = (ODD[name],)  # LogRecord itself looks into some arguments
        line_of(made)


@pytest.mark.parametrize("name", [*vars(record()), "unknown"])
@pytest.mark.parametrize("odd", sorted(ODD.keys() - ENDLESS))
def test_any_field_gives_one_valid_line(name, odd):
    """GIVEN a record as somebody may have unpickled it THEN it is a line all the same."""
    made = record("x", a=1)
    made.__dict__[name] = ODD[odd]
    line_of(made)
    line_of(made, "ecs", 4096)


@pytest.mark.parametrize("name", sorted(vars(record())))
def test_a_record_that_lacks_a_field_is_a_line(name):
    made = record("x", a=1)
    del made.__dict__[name]
    line_of(made)


@pytest.mark.parametrize("error", [
    OddError(), ValueError(Odd()), ValueError("x" * 1_000_000), ValueError("\udcff\n\u2028"), KeyError(OddText("a")),
    ExceptionGroup("g", [OddError(), ValueError(1)]), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"), SystemExit(Odd()),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_any_exception_gives_one_valid_line(error):
    for limit in (4096, 65_536):
        found = line_of(record("x", exc_info=failed(error)), limit=limit)
        assert found["exception.type"].endswith(type(error).__name__)
        assert "Traceback" in found["exception.stacktrace"] or limit == 4096
        assert type(error).__name__ in found["exception.stacktrace"]
    error.__cause__ = error
    line_of(record("x", exc_info=(type(error), error, error.__traceback__)))
    line_of(record("x", exc_info=(type(error), None, None)))
    line_of(record("x", exc_info=error))


@pytest.mark.parametrize("exc_info", [True, (None, None, None), (1, 2, 3), "x", (ValueError, "no exception", None), ()])
def test_exc_info_that_is_none_gives_one_valid_line(exc_info):
    made = record("x")
    made.exc_info = exc_info
    line_of(made)


def test_a_text_of_ten_megabytes_is_cut_and_says_so():
    text = "x" * 10_000_000
    found = line_of(record(text, more=text, kept=7))
    assert found["body"].endswith("…[cut]")
    assert found["attributes"]["more"].endswith("…[cut]")
    assert sorted(found["truncated"]) == ["attributes", "body"]
    only = line_of(record("y" + text))
    assert only["body"].endswith("…[cut]")
    assert 60_000 < len(only["body"]) < 65_536
    assert only["truncated"] == ["body"]


def test_a_traceback_is_cut_in_its_middle():
    found = line_of(record("x", exc_info=failed(ValueError("first\n" + "x" * 200_000 + "\nlast"))))
    assert found["exception.stacktrace"].startswith("Traceback")
    assert found["exception.stacktrace"].endswith("last\n")
    assert "…[cut" in found["exception.stacktrace"]
    assert found["truncated"] == ["exception.message", "exception.stacktrace"]


def test_nothing_is_kept_of_what_is_cut():
    """GIVEN records of many megabytes THEN a line takes little more than its size while it is made."""
    encoder = Encoder("shop", redactor=Redactor())
    made = record("x", many=list(range(500_000)), wide=dict.fromkeys(range(200_000)), long="x" * 20_000_000)
    encoder.line(made)
    gc.collect()
    tracemalloc.start()
    try:
        check(encoder.line(made))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_what_is_remembered_is_bounded():
    encoder = Encoder("shop")
    make = Encoder.line.__wrapped__  # without the look at each line that tests have
    for number in range(SITES + 100):
        made = record("x", name=f"request-{number}")
        made.thread, made.threadName = number, f"t{number}"
        line = make(encoder, made)
    assert check(line)["thread.name"] == f"t{number}"
    assert len(encoder._sites) <= SITES
    assert len(encoder._threads) <= SITES


def test_a_name_without_end_is_cut():
    found = line_of(record("x", name="é" * 100_000))
    assert len(found["scope.name"].encode()) <= 512
    assert found["scope.name"].endswith("…[cut]")


def test_ids_that_are_none_are_left_out():
    for ids in (
        ("x" * 32, SPAN),
        ('"' * 32, SPAN),
        (TRACE.upper(), SPAN),
        (7, 8),
        (TRACE, "0"),
        (TRACE, '"' * 16),
        ("", ""),
    ):
        made = record()
        made.__dict__.update({TRACE_ID: ids[0], SPAN_ID: ids[1], SAMPLED: True})
        found = line_of(made)
        assert found.get("trace_id", TRACE) == TRACE
        assert found.get("span_id", SPAN) == SPAN


def test_the_last_resort_is_a_line_as_well(monkeypatch):
    encoder = Encoder("shop")
    monkeypatch.setattr(encoder._assembler, "_line", lambda parts: 1 / 0)
    assert check(encoder.line(record("x", value=Odd())))["body"] == "otel-perf: a record that could not be written"


def test_threads_get_their_own_lines():
    encoder, lines = Encoder("shop", redactor=Redactor()), []

    def work(number):
        for turn in range(200):
            made = record("work %d of %d", turn, number, number=number, text="ü" * (number % 3))
            made.__dict__.update({TRACE_ID: f"{number:032x}", SPAN_ID: f"{turn + 1:016x}", SAMPLED: bool(number % 2)})
            lines.append((number, turn, encoder.line(made)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 1600
    for number, turn, line in lines:
        found = check(line)
        assert found["trace_id"] == f"{number:032x}"
        assert found["span_id"] == f"{turn + 1:016x}"
        assert found["trace_flags"] == ("01" if number % 2 else "00")
        assert found["attributes"]["number"] == number


@pytest.mark.parametrize("fields", FIELDS)
def test_a_line_of_another_library_is_by_the_same_schema(fields):
    encoder = Encoder("shop", fields=fields, redactor=Redactor())
    usual = {
        "time": 1.5, "level": "INFO", "levelno": 20, "logger": "shop", "message": "hello", "place": ("a.py", 3, "f"),
        "ids": (TRACE, SPAN, True), "correlation": "c-1",
    }  # fmt: skip
    quick = check(encoder.compose(**usual, attributes={"name": "bob", "msg": 1, "message": "m"}, error=None), fields)
    assert quick["attributes" if fields == "otel" else "labels"] == {"name": "bob", "msg": 1, "message": "m"}
    for odd in ODD.values():
        check(encoder.compose(**usual, attributes={"odd": odd, "exception.stacktrace": "t"}, error=OddError()), fields)
        for name in usual if odd is not ODD["doubled"] else ():
            check(encoder.compose(**{**usual, name: odd}, attributes={"a": 1}, error=None), fields)
    found = check(
        encoder.compose(
            **usual, attributes={"exception.stacktrace": "text", "event.name": "e", "name": "bob"}, error=None
        ),
        fields,
    )
    assert found["exception.stacktrace" if fields == "otel" else "error.stack_trace"] == "text"
    assert found["event_name" if fields == "otel" else "event.action"] == "e"


def test_shares_fill_the_room():
    assert shares([10, 20], 100) == [10, 20]
    assert shares([10, 1000, 1000], 110) == [10, 50, 50]
    assert sum(shares([7, 500, 90, 3000], 1000)) == 1000
    assert shares([5], -3) == [0]


# --- the schema ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", FIELDS)
def test_the_schema_is_one_and_refuses_what_is_no_line(fields):
    published = schema(fields)
    jsonschema.Draft202012Validator.check_schema(published)
    validator = jsonschema.Draft202012Validator(published)
    line = json.loads(Encoder("shop", fields=fields).line(record("x", a=1)))
    validator.validate(line)
    required = set(published["required"])
    assert {"service.name"} < required
    for name in line:
        for wrong in (None, [], {"a": []} if name != "attributes" else 7):
            assert not validator.is_valid({**line, name: wrong}), name
        assert validator.is_valid({key: line[key] for key in line if key != name}) == (name not in required)
    assert not validator.is_valid({**line, "more": 1})
    with pytest.raises(ValueError, match="more"):
        MODELS[fields].model_validate({**line, "more": 1})


def test_handlers_write_lines(tmp_path):
    """The encoder in a formatter of the user's own, as one may use it by hand."""

    class ByHand(logging.Formatter):
        encoder = Encoder("shop")

        def format(self, record):
            return self.encoder.line(record)

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ByHand())
    logger = logging.getLogger("byhand")
    logger.addHandler(handler)
    logger.warning("x")
    logger.removeHandler(handler)
    assert check(stream.getvalue().rstrip("\n"))["body"] == "x"


def test_an_event_of_structlog_on_its_way_to_its_own_formatter_is_fields():
    """GIVEN a record as ``ProcessorFormatter.wrap_for_formatter`` makes it."""
    event = {"event": "placed", "order": 7, "level": "info", "timestamp": "2026", "logger": "shop", "trace_id": TRACE}
    made = record(event, _logger=logging.getLogger("shop"), _name="info")
    made.__dict__.update({TRACE_ID: TRACE, SPAN_ID: SPAN, CORRELATION_ID: TRACE})
    found = line_of(made)
    assert (found["body"], found["attributes"]) == ("placed", {"order": 7})
    made.msg = {**event, "correlation_id": "theirs"}
    assert line_of(made)["attributes"] == {"order": 7, "correlation_id": "theirs"}
    try:
        raise ValueError("no stock")
    except ValueError:
        found = line_of(record({**event, "exc_info": True}, _logger=None, _name="error"))
    assert (found["exception.type"], found["exception.message"]) == ("ValueError", "no stock")
    found = line_of(record({**event, "exception": "Traceback …"}, _logger=None, _name="error"))
    assert found["exception.stacktrace"] == "Traceback …"


def test_what_a_handlers_filter_adds_is_in_the_line_as_well():
    """GIVEN fields that come after the ids THEN none is taken for one of these."""
    made = record("x", a=1)
    made.__dict__.update(tenant="t1", user=7)
    assert line_of(made)["attributes"] == {"a": 1, "tenant": "t1", "user": 7}
    made = record("x", a=1)
    logging.Formatter("%(asctime)s %(message)s").format(made)  # leaves two fields behind
    assert line_of(made)["attributes"] == {"a": 1}
    made = record("x")
    made.__dict__.update({"tenant": "token=hunter2", "password": "hunter2"})
    assert line_of(made)["attributes"] == {"tenant": "token=[redacted]", "password": "[redacted]"}


def test_no_extra_is_lost_beside_ids_of_upstreams_instrumentation():
    """GIVEN its record factory, which has no correlation id: as many fields as ours without an extra."""
    encoder = Encoder("shop", redactor=Redactor())
    for extras in ({"a": 1}, {"a": 1, "b": 2}, {}):
        made = logging.getLogger("shop").makeRecord("shop", 20, "a.py", 1, "x", (), None, "f")
        made.__dict__.update({SPAN_ID: SPAN, TRACE_ID: TRACE, SAMPLED: True, SERVICE_NAME: "shop", **extras})
        assert check(encoder.line(made)).get("attributes", {}) == extras


def test_no_extra_of_a_class_of_records_is_lost():
    class Mine(logging.LogRecord):
        def __init__(self, *args, **kwargs):
            self.tenant = "t1"
            super().__init__(*args, **kwargs)

    encoder = Encoder("shop", redactor=Redactor())
    for extras in ({}, {"a": 1}, {"password": "hunter2"}):
        made = Mine("shop", 20, "a.py", 1, "x", (), None, "f")
        made.__dict__.update(extras)
        stamp(made, "shop")
        shown = dict.fromkeys(extras, "[redacted]") if "password" in extras else extras
        assert check(encoder.line(made))["attributes"] == {"tenant": "t1", **shown}


def test_a_place_may_add_other_fields_each_time():
    """GIVEN as many as before THEN none is taken for one of those."""
    encoder = Encoder("shop", redactor=Redactor())
    formatter = logging.Formatter("%(asctime)s %(message)s")
    for turn in range(3):
        for extras in (
            {"a": 1, "b": 2},
            {"a": 1, "c": "z"},
            {"b": 1, "a": 3},
            {"password": 1, "a": 2},
            {"a": [1], "b": 2},
            {},
            {"a": 1},
        ):
            for formatted in (False, True):
                made = record(**extras)
                if formatted:
                    formatter.format(made)  # leaves two fields behind
                shown = {key: "[redacted]" if key == "password" else value for key, value in extras.items()}
                found = check(encoder.line(made)).get("attributes", {})
                assert (found, list(found)) == (shown, list(shown)), turn


def test_names_of_fields_hold_no_secret():
    found = line_of(
        record(
            "x",
            **{"https://bob:hunter2@h is up": 1, "deep": {"redis://:hunter2@h": [{"sk" + "_live_hunter2hunter2": 2}]}},
        )
    )
    assert found["attributes"] == {
        "https://bob:[redacted]@h is up": 1, "deep": {"redis://:[redacted]@h": [{"[redacted]": 2}]},
    }  # fmt: skip


@pytest.mark.parametrize("created", [-1.0, -0.5, float("nan"), float("inf"), 1e300, 1e12, "x", None])
def test_a_time_that_is_none_is_the_time_of_the_line(created):
    made = record("x")
    made.created = created
    assert line_of(made)["timestamp"]
