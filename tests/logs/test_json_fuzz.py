"""Records made of anything: one valid line each."""

import logging

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_perf.logs.correlation import SAMPLED, SPAN_ID, TRACE_ID, stamp
from otel_perf.logs.json_format import Encoder
from otel_perf.logs.redaction import Redactor
from otel_perf.logs.text_format import TextEncoder
from tests.log_lines import check
from tests.logs.test_json_format import ENDLESS, ODD, failed


def odd(name):
    """By a function: hypothesis prints what its strategies are made of. What has no class breaks it all the same."""
    return ODD[name]


texts = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=60),
    st.builds(lambda text, times: text * times, st.text(st.characters(exclude_categories=()), max_size=4), st.integers(0, 40_000)),
    st.sampled_from(["password=hunter2", '"', "\\", "\n", "\u2028", "\udcff"]),
    st.just("x").map(lambda text: text * 70_000),
)  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(), texts, st.binary(max_size=40),
    st.decimals(), st.datetimes(), st.uuids(), st.timedeltas(), st.complex_numbers(),
    st.sampled_from(sorted(ODD.keys() - ENDLESS - {"liar"})).map(odd),
)  # fmt: skip
keys = st.one_of(texts, st.integers(), st.none(), st.tuples(st.integers()))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=5), st.tuples(inner, inner),
        st.frozensets(st.integers(), max_size=5), st.tuples(texts, inner).map(lambda pair: [pair]),
    ),
    max_leaves=20,
)  # fmt: skip
errors = st.one_of(
    st.none(),
    st.builds(lambda kind, text: failed(kind(text)), st.sampled_from([ValueError, KeyError, OSError]), texts),
    st.sampled_from([True, (None, None, None), "x", 7]),
)
records = st.fixed_dictionaries(
    {"msg": st.one_of(texts, values), "args": st.one_of(st.just(()), st.tuples(values), st.dictionaries(texts, values))},
    optional={
        "name": values, "levelname": values, "levelno": st.one_of(st.integers(), values), "pathname": values, "lineno": values,
        "funcName": values, "created": st.one_of(st.floats(), values), "thread": values, "threadName": values,
        "process": values, "exc_info": errors, "exc_text": values, "stack_info": values, TRACE_ID: values, SPAN_ID: values,
        SAMPLED: values, "message": values,
    },
)  # fmt: skip
# Where one fails hypothesis prints what it was made of, all of it.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
quietly = settings(deadline=None, max_examples=60, suppress_health_check=[*HealthCheck])


def made_of(fields, extras):
    record = logging.LogRecord("shop", logging.INFO, "/srv/shop.py", 1, "x", (), None, "f")
    stamp(record, "shop")
    record.__dict__.update(fields)
    for key, value in extras.items():
        record.__dict__.setdefault(key, value)
    return record


@pytest.mark.parametrize("redactor", [Redactor(), None], ids=["redacted", "as it is"])
@pytest.mark.parametrize("limit", [4096, 65_536])
@pytest.mark.parametrize("fields", ["otel", "ecs"])
@quietly
@example(record={"msg": "x", "args": (), "created": -1.0}, extras={})
@given(record=records, extras=st.dictionaries(keys, values, max_size=6))
def test_any_record_gives_one_valid_line(fields, limit, redactor, record, extras):
    encoder = Encoder("shop", fields=fields, limit=limit, redactor=redactor)
    line = encoder.line(made_of(record, extras))
    check(line, fields, limit)
    line.encode()


@quietly
@given(record=records, extras=st.dictionaries(keys, values, max_size=6), limit=st.sampled_from([4096, 65_536]))
def test_any_record_gives_a_text_of_its_size(record, extras, limit):
    line = TextEncoder("shop", limit=limit, redactor=Redactor()).line(made_of(record, extras))
    assert len(line.encode()) <= limit


@quietly
@given(given_=st.fixed_dictionaries(dict.fromkeys(("time", "level", "levelno", "logger", "message", "correlation"), values)),
       attributes=st.dictionaries(keys, values, max_size=6), ids=st.tuples(values, values, values),
       place=st.tuples(values, values, values), error=st.one_of(st.none(), st.builds(ValueError, texts)))  # fmt: skip
def test_any_line_of_another_library_is_valid(given_, attributes, ids, place, error):
    for fields in ("otel", "ecs"):
        encoder = Encoder("shop", fields=fields, limit=4096, redactor=Redactor())
        check(encoder.compose(**given_, attributes=attributes, ids=ids, place=place, error=error), fields, 4096)
