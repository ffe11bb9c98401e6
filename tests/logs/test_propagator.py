"""The id in the headers of carriers of every kind."""

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator

import otel_perf as perf
from otel_perf.core.correlation import current
from otel_perf.core.ids import KEY
from otel_perf.logs.propagator import CorrelationPropagator
from tests.core.test_correlation import in_span


@pytest.fixture
def started(start):
    return start()


def sent(context=None):
    headers = {}
    propagate.inject(headers, context)
    return headers


def test_a_given_id_goes_out_beside_the_baggage(started):
    with perf.correlation("a b"):
        assert sent() == {"baggage": "perf.correlation.id=a+b", "X-Request-ID": "a b"}
    assert set(sent(in_span())) == {"traceparent"}
    assert "x-request-id" in propagate.get_global_textmap().fields


@pytest.mark.parametrize("name", ["X-Request-ID", "x-request-id", "X-REQUEST-ID"])
def test_a_header_of_the_apps_stays(started, name):
    headers = {name: "theirs"}
    with perf.correlation("ours"):
        propagate.inject(headers)
    assert headers == {name: "theirs", "baggage": "perf.correlation.id=ours"}


def test_a_carrier_that_cannot_be_asked_gets_the_header(started):
    carrier = []

    class Setter:
        def set(self, carrier, key, value):
            carrier.append((key, value))

    with perf.correlation("ours"):
        propagate.inject(carrier, setter=Setter())
    assert ("X-Request-ID", "ours") in carrier


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-request-id": "one", "x-correlation-id": "two"}, "one"),
        ({"x-request-id": "", "x-correlation-id": "two"}, "two"),
        ({"x-request-id": "a\nb"}, ""),
        ({"baggage": "perf.correlation.id=three"}, "three"),
        ({"baggage": "perf.correlation.id=three", "x-request-id": "one"}, "one"),
        ({"baggage": "perf.correlation.id=a%0Ab"}, ""),
        ({}, ""),
    ],
)
def test_what_comes_in(started, headers, expected):
    context = propagate.extract(headers, Context())
    assert current(context) == expected
    assert baggage.get_baggage(KEY, context) == (expected or None)


def test_a_program_that_propagates_nothing_sends_nothing(started):
    from otel_perf.core.guard import Guard

    ours = CorrelationPropagator(CompositePropagator([]), Guard("logs"))
    headers = {}
    with perf.correlation("x"):
        ours.inject(headers)
    assert headers == {}
    assert ours.fields == set()
    assert current(ours.extract({"x-request-id": "in"}, Context())) == "in"


@pytest.mark.usefixtures("absorbing")
def test_a_getter_that_fails_leaves_what_the_others_found(start):
    pipeline = start()

    class Getter:
        def get(self, carrier, key):
            if key.startswith("x-"):
                raise RuntimeError
            return [carrier[key]] if key in carrier else None

    context = propagate.extract({"traceparent": f"00-{7:032x}-{8:016x}-01"}, Context(), getter=Getter())
    assert current(context) == f"{7:032x}"
    assert pipeline.guards["logs"].errors == 1


def test_the_undo_puts_the_propagators_back_unless_the_app_set_its_own(start):
    before = propagate.get_global_textmap()
    pipeline = start()
    ours = propagate.get_global_textmap()
    assert ours is not before
    pipeline.shutdown()
    assert propagate.get_global_textmap() is before
    theirs = CompositePropagator([ours])
    propagate.set_global_textmap(theirs)
    headers = {}
    with perf.correlation("x"):
        propagate.inject(headers)
    assert "X-Request-ID" not in headers
    propagate.set_global_textmap(before)
