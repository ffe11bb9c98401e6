"""Business events: what was said arrives, what does not fit is an error here and kept in production."""

import datetime as dt
import decimal
import enum
import json
import os
import subprocess
import sys
import threading

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import _internal as logs_api

import otel_perf as perf
from otel_perf.core.errors import EventError
from otel_perf.logs import events as module
from otel_perf.logs.emit import Emitter
from tests.stored import apps_events, apps_logs, logs, spans
from tests.stored import events as stored


class Address(pydantic.BaseModel):
    city: str


@perf.events.register("test.order.placed", version=1)
class OrderPlacedBefore(pydantic.BaseModel):
    order_id: int


@perf.events.register("test.order.placed", version=2)
class OrderPlaced(pydantic.BaseModel):
    order_id: int
    amount: decimal.Decimal = decimal.Decimal(0)
    at: dt.date | None = None
    address: Address | None = None
    card: pydantic.SecretStr | None = None
    internal: str = pydantic.Field(default="hidden", exclude=True)


class Wide(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    number: int


class Named(pydantic.BaseModel):
    first: int = pydantic.Field(alias="firstOne")
    second: int = pydantic.Field(default=0, validation_alias=pydantic.AliasChoices("second_one", "zweitens"))


class Picky(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, value):
        if value == 13:
            raise ValueError("brings bad luck")
        if value == 14:
            raise RuntimeError("broken validator")
        return value


class Quiet(Wide):
    pass


perf.events.register("test.wide", Wide)
perf.events.register("test.quiet", Quiet, span_event=False)
perf.events.register("test.named", Named)
perf.events.register("test.picky", Picky)


@pytest.fixture(autouse=True)
def _counted_anew():
    perf.events.after_fork_in_child()


# --- what was said arrives ---------------------------------------------------------------------------


def test_an_event_has_its_fields_its_trace_and_is_on_its_span(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s"):
        perf.business_event("order.placed", order_id=7, amount=9.5, paid=True, currency="EUR")
    perf.business_event("order.placed", order_id=8)
    pipeline.shutdown()
    inside, outside = stored(home, "order.placed")
    (span,) = spans(home)
    fields = {"order_id": 7, "amount": 9.5, "paid": True, "currency": "EUR"}
    assert (inside.attributes, inside.severity_text, inside.scope) == (fields, "INFO", "otel_perf.events")
    assert (inside.trace_id, inside.span_id) == (span.trace_id, span.span_id)
    assert apps_events(span) == (("order.placed", fields),)
    assert outside.attributes == {"order_id": 8}
    assert outside.trace_id.strip("0") == ""


def test_a_field_may_have_the_name_of_the_parameter(start, home):
    pipeline = start()
    perf.business_event("named", event="e", self="s", name="n")
    pipeline.shutdown()
    assert stored(home, "named")[0].attributes == {"event": "e", "self": "s", "name": "n"}


def test_a_model_arrives_as_it_writes_itself(start, home):
    pipeline = start()
    perf.business_event(
        OrderPlaced(
            order_id=1, amount=decimal.Decimal("9.90"), at=dt.date(2026, 11, 26), address=Address(city="Köln"),
            card=pydantic.SecretStr("4111111111111111"),
        )
    )  # fmt: skip
    perf.business_event(OrderPlacedBefore(order_id=2))
    pipeline.shutdown()
    newer, older = stored(home, "test.order.placed")
    assert newer.attributes == {
        "order_id": 1, "amount": "9.90", "at": "2026-11-26", "address": {"city": "Köln"}, "card": "**********",
        "perf.event.version": 2,
    }  # fmt: skip
    assert older.attributes == {"order_id": 2, "perf.event.version": 1}


def test_fields_are_converted_as_the_latest_model_does(start, home):
    pipeline = start()
    perf.business_event("test.order.placed", order_id="12", amount="3.50")
    pipeline.shutdown()
    (event,) = stored(home, "test.order.placed")
    assert event.attributes["order_id"] == 12
    assert event.attributes["perf.event.version"] == 2
    assert "internal" not in event.attributes


def test_aliases_and_extra_fields_are_as_the_model_says(start, home):
    pipeline = start()
    perf.business_event("test.named", firstOne=1, zweitens=2)
    perf.business_event("test.wide", number=1, more="x")
    with pytest.raises(EventError, match="first=1: not a field of"):
        perf.business_event("test.named", first=1)
    pipeline.shutdown()
    assert stored(home, "test.named")[0].attributes == {"first": 1, "second": 2, "perf.event.version": 1}
    assert stored(home, "test.wide")[0].attributes == {"number": 1, "more": "x", "perf.event.version": 1}


def test_a_name_from_an_enumeration(start, home):
    class Kind(enum.StrEnum):
        PAID = "order.paid"

    pipeline = start()
    perf.business_event(Kind.PAID, order_id=1)
    pipeline.shutdown()
    assert len(stored(home, "order.paid")) == 1


def test_an_event_of_a_name_that_opted_out_is_not_on_the_span(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s"):
        perf.business_event("test.quiet", number=1)
    pipeline.shutdown()
    assert len(stored(home, "test.quiet")) == 1
    assert apps_events(spans(home)[0]) == ()


def test_the_correlation_id_of_the_work_is_on_it(start, home):
    pipeline = start()
    with perf.correlation("job-17"):
        perf.business_event("job.done")
    pipeline.shutdown()
    assert stored(home, "job.done")[0].attributes == {"perf.correlation.id": "job-17"}


# --- what does not fit -------------------------------------------------------------------------------


WRONG = {
    "an unknown field": (("test.order.placed", {"order_id": 1, "colour": "red"}), "colour='red': not a field of"),
    "a wrong type": (("test.order.placed", {"order_id": "x"}), "order_id='x': Input should be a valid integer"),
    "a missing field": (("test.order.placed", {}), "order_id: Field required"),
    "a nested one": (("test.order.placed", {"order_id": 1, "address": {"city": 5}}), "address.city=5: Input should be"),
    "what a validator refuses": (("test.picky", {"number": 13}), "brings bad luck"),
    "a validator that breaks": (("test.picky", {"number": 14}), "RuntimeError: broken validator"),
    "no name": (("", {}), "is no name"),
    "blanks": (("  ", {}), "is no name"),
    "a name with a line break": (("a\nb", {}), "characters that nobody sees"),
    "a name with a lone surrogate": (("a\udcff", {}), "characters that nobody sees"),
    "a long name": (("a" * 256, {}), "has 256 characters"),
    "one of ours": (("perf.request", {}), "begins like otel-perf's own"),
    "a number": ((5, {}), "give it a name"),
    "a model that nobody registered": ((Address(city="Rom"), {}), "Address is not registered; decorate it"),
    "a model and fields": ((OrderPlaced(order_id=1), {"colour": "red"}), "colour: put it into"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_an_error_in_tests(start, what):
    start()
    (event, fields), message = WRONG[what]
    with pytest.raises(EventError, match=message):
        perf.business_event(event, **fields)


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_kept_marked_and_counted_in_production(start, home, absorbing, what):
    pipeline = start()
    (event, fields), message = WRONG[what]
    for _ in range(2):  # the second one finds the name known
        perf.business_event(event, **fields)
    counted = pipeline.census.read(module.INVALID_EVENTS)
    pipeline.shutdown()
    kept = [entry for entry in logs(home) if module.INVALID in entry.attributes]
    assert len(kept) == 2
    assert [number for number, _ in counted] == [2]
    for key, value in fields.items():
        assert kept[0].attributes[key] == value
    reason = kept[1].attributes[module.INVALID]
    assert message.partition("=")[0].partition(":")[0] in reason
    assert "'red'" not in reason  # the value is in its field, where it can be redacted
    assert kept[0].event_name.isprintable()


def test_events_are_counted_by_name_and_names_are_bounded(start, home):
    pipeline = start()
    for number in range(module.NAMES + 50):
        perf.business_event(f"many.{number}")
    counted = {attributes["event.name"]: count for count, attributes in pipeline.census.read(module.EVENTS)}
    pipeline.shutdown()
    assert len(counted) == module.NAMES + 1
    assert sum(counted.values()) == module.NAMES + 50
    assert len([entry for entry in logs(home) if entry.event_name.startswith("many.")]) == module.NAMES + 50


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("", OrderPlaced), ValueError, "is no name"),
        (("perf.own", OrderPlaced), ValueError, "begins like otel-perf's own"),
        (("x", int), TypeError, "is no Pydantic model"),
        (("x", OrderPlaced(order_id=1)), TypeError, "is no Pydantic model"),
        (("test.order.placed", Wide), ValueError, "version 1 is registered already, by .*OrderPlacedBefore: give .*Wide version=3"),
    ],
)  # fmt: skip
def test_a_wrong_registration_is_an_error_everywhere(arguments, error, message, absorbing):
    with pytest.raises(error, match=message):
        perf.events.register(*arguments)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2"])
def test_a_wrong_version_is_an_error(version):
    with pytest.raises(ValueError, match="must be a whole number from 1 on"):
        perf.events.register("x", OrderPlaced, version=version)


def test_a_module_that_is_reloaded_registers_again():
    again = type(OrderPlaced)(
        "OrderPlaced", (pydantic.BaseModel,), {"__module__": __name__, "__qualname__": "OrderPlaced"}
    )
    try:
        perf.events.register("test.order.placed", again, version=2)
    finally:
        perf.events.register("test.order.placed", OrderPlaced, version=2)


# --- never harms -------------------------------------------------------------------------------------


class BrokenRepr:
    def __repr__(self):
        raise RuntimeError


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(BrokenRepr)
    | st.builds(object) | st.builds(lambda: 10**5000) | st.just("\udcff") | st.just("x" * 70_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=6,
)  # fmt: skip


def test_whatever_is_given_is_one_event_that_can_be_read(start, home, absorbing):
    pipeline = start()
    made = [0]

    @given(st.dictionaries(st.text(), values, max_size=5))
    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def say(fields):
        made[0] += 1
        perf.business_event("fuzzed", **fields)

    say()
    pipeline.shutdown()
    found = stored(home, "fuzzed")
    assert len(found) == made[0]
    assert all(
        len(value) <= module.LONGEST + 1
        for event in found
        for value in event.attributes.values()
        if isinstance(value, str)
    )
    assert pipeline.guards["logs"].errors == 0


def test_fields_beyond_the_limit_are_left_out_and_said(start, home, recwarn):
    pipeline = start()
    perf.business_event("wide", **{f"f{number}": number for number in range(300)})
    pipeline.shutdown()
    (event,) = stored(home, "wide")
    assert event.attributes["f0"] == 0
    assert event.attributes["perf.event.fields"] == 300
    assert len(event.attributes) == module.FIELDS + 1


def test_nothing_is_said_where_nothing_is_installed(absorbing):
    assert perf.business_event("nobody.hears", order_id=1) is None
    assert perf.business_event("test.order.placed", colour="red") is None


@pytest.mark.parametrize("variables", [{"OTEL_PERF_LOGS": "off"}, {"OTEL_LOGS_EXPORTER": "none"}])
def test_nothing_is_stored_where_logs_are_off(start, home, absorbing, variables):
    pipeline = start(**variables)
    with trace.get_tracer("t").start_as_current_span("s"):
        perf.business_event("order.placed", order_id=1)
    pipeline.shutdown()
    assert apps_logs(home) == []


WITHOUT_SDK = """
import sys
sys.modules["opentelemetry.sdk"] = None
import pydantic, otel_perf as perf
@perf.events.register("order.placed")
class OrderPlaced(pydantic.BaseModel):
    order_id: int
perf.business_event("order.placed", order_id="no number", colour="red")
perf.business_event(OrderPlaced(order_id=1))
perf.business_event("free", anything=object())
print("fine", "opentelemetry.sdk.trace" in sys.modules)
"""


def test_it_works_without_an_sdk():
    done = subprocess.run([sys.executable, "-c", WITHOUT_SDK], capture_output=True, text=True, check=True)
    assert done.stdout == "fine False\n"
    assert done.stderr == ""


def test_tests_can_look_at_events(perf_capture):
    with trace.get_tracer("t").start_as_current_span("s"):
        perf.business_event(OrderPlaced(order_id=1))
    (record,) = perf_capture.logs
    assert record.log_record.event_name == "test.order.placed"
    assert record.log_record.attributes["order_id"] == 1
    assert record.log_record.trace_id == 1
    assert [event.name for event in perf_capture.spans[0].events] == ["test.order.placed"]


def test_a_processor_that_fails_costs_the_app_nothing(start, absorbing):
    pipeline = start()

    class Broken:
        def on_emit(self, log_record):
            raise RuntimeError("broken")

        def shutdown(self):
            """Nothing."""

        def force_flush(self, timeout_millis=0):
            return True

    pipeline.providers.logger.add_log_record_processor(Broken())
    perf.business_event("order.placed")
    assert pipeline.guards["logs"].errors >= 1  # the line that says so meets it, too


def test_threads_count_exactly(start, home):
    pipeline = start(OTEL_PERF_STORE_QUEUE="10000")

    def work(number):
        for index in range(200):
            perf.business_event("threaded", worker=number, index=index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = pipeline.census.read(module.EVENTS)
    pipeline.shutdown()
    assert counted == [(1600, {"event.name": "threaded"})]
    found = [(event.attributes["worker"], event.attributes["index"]) for event in stored(home, "threaded")]
    assert sorted(found) == [(worker, index) for worker in range(8) for index in range(200)]


def test_a_forked_child_counts_its_own(start, home):
    pipeline = start()
    perf.business_event("before")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            perf.business_event("in.child", order_id=1)
            pipeline.flush()
            os.write(writing, json.dumps(pipeline.census.read(module.EVENTS)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    counted = json.loads(os.read(reading, 1000))
    os.close(reading)
    assert counted == [[1, {"event.name": "in.child"}]]
    pipeline.shutdown()
    assert len(stored(home, "before")) == len(stored(home, "in.child")) == 1


# --- how it is made ----------------------------------------------------------------------------------


def loosely(value):
    """The SDK makes tuples of lists."""
    return [loosely(item) for item in value] if isinstance(value, list | tuple) else value


def test_what_is_made_quickly_is_what_the_sdk_makes(perf_capture, monkeypatch):
    """The same event through the public constructors: the encoder gives the same bytes, but for the time."""
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    fields = {"text": "Köln", "number": 5, "ratio": 0.5, "yes": True, "rows": [1, {"a": None}], "raw": b"\x00"}
    with trace.get_tracer("t").start_as_current_span("s"):
        perf.business_event("compared", **fields)
        monkeypatch.setattr("otel_perf.logs.emit._kind", lambda _logger: None)
        monkeypatch.setattr(perf.events, "_emitter", Emitter("otel_perf.events"))
        perf.business_event("compared", **fields)
    quick, plain = perf_capture.logs
    for record in (quick, plain):
        record.log_record.timestamp = record.log_record.observed_timestamp = 1
    assert encode_logs([quick]) == encode_logs([plain])
    assert vars(quick.log_record).keys() == vars(plain.log_record).keys()
    first, second = perf_capture.spans[0].events
    assert {key: loosely(value) for key, value in first.attributes.items()} == {
        key: loosely(value) for key, value in second.attributes.items()
    }


def test_the_sdks_limits_hold(start, home, monkeypatch):
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    pipeline = start()
    perf.business_event("cut", text="abcdef")
    pipeline.shutdown()
    assert stored(home, "cut")[0].attributes == {"text": "abc"}


def test_another_provider_than_the_sdks_gets_events_too(monkeypatch):
    seen = []

    class Logger:
        def emit(self, record):
            seen.append((record.event_name, record.attributes))

    class Provider:
        def get_logger(self, *_arguments):
            return Logger()

    monkeypatch.setattr(logs_api, "_LOGGER_PROVIDER", Provider())
    perf.business_event("elsewhere", order_id=1)
    assert seen == [("elsewhere", {"order_id": 1})]
