"""The body of a record: one text for one value, and a clear error for what has none."""

import datetime as dt
import decimal
import enum
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.core.errors import SettingError
from otel_perf.logs.audit import chain
from otel_perf.logs.audit.encoding import DEPTH, LONGEST, Fields, canonical, text

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


def copy(secret=(), **fields):
    def labels(items):
        return any(key == "name" and value in secret for key, value in items)

    return Fields("'t'", lambda key: key in secret, labels, "[gone]").copy(fields)


def test_a_value_whose_name_stands_beside_it_is_hidden():
    assert copy(["pin"], a=[{"name": "pin", "value": 7}, {"name": "port", "value": 80}]) == {
        "a": [{"name": "pin", "value": "[gone]"}, {"name": "port", "value": 80}]
    }
    assert copy(["pin"], name="pin", value=7) == {"name": "pin", "value": "[gone]"}


@given(VALUES)
def test_a_value_has_one_encoding_which_reads_back(value):
    made = canonical(copy(value=value))
    assert made.isascii()
    assert b"\n" not in made
    assert json.loads(made) == {"value": value}
    assert canonical(json.loads(made)) == made


def test_the_order_of_keys_and_the_kind_of_sequence_do_not_matter():
    assert canonical(copy(a={"x": 1, "y": (1, 2)})) == canonical(copy(a={"y": [1, 2], "x": 1}))


class Colour(enum.StrEnum):
    RED = "red"


def test_subclasses_are_stored_as_what_they_are():
    number = enum.IntEnum("Number", {"TWO": 2}).TWO
    assert canonical(copy(a=Colour.RED, b=number, c=True)) == b'{"a":"red","b":2,"c":true}'


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")


endless = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (dt.datetime(2026, 1, 1), "field 'a' is of type datetime; it must be text, a whole number"),
        (decimal.Decimal(1), "is of type Decimal"),
        (b"x", "is of type bytes"),
        ({1, 2}, "is of type set"),
        (Broken(), "is of type Broken"),
        (2**63, "more than 64 bits"),
        (float("nan"), "not a finite number"),
        (float("-inf"), "not a finite number"),
        ({"x": [{"y": object()}]}, r"field 'a'['x'][0]['y'] is of type object"),
        ({1: 2}, "has a key of type int; keys must be text"),
        (endless, f"nested deeper than {DEPTH}"),
        ("x" * (LONGEST + 1), "larger than 1,000,000 bytes"),
        ([0] * (LONGEST + 1), "1,000,001 items"),
        (["x" * 1000] * 1001, "larger than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_stored_names_the_field_and_the_reason(value, why):
    with pytest.raises(SettingError) as caught:
        copy(a=value)
    assert "audit_event('t'): " in str(caught.value)
    assert why in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_error_does_not_show_the_value():
    with pytest.raises(SettingError) as caught:
        copy(password=b"hunter2")
    assert "hunter2" not in str(caught.value)


def test_values_under_a_secret_key_are_hidden_at_every_depth():
    made = copy(("password", "token"), password="hunter2", a=[{"token": {"x": "hunter2"}, "kept": 1}])
    assert made == {"password": "[gone]", "a": [{"token": "[gone]", "kept": 1}]}


@pytest.mark.parametrize(
    ("value", "why"), [(17, "is of type int; it must be text"), ("", "has 0 characters"), ("x" * 1001, "1,001")]
)
def test_names_are_text_of_a_sane_length(value, why):
    with pytest.raises(SettingError, match=why):
        text("'t'", "actor", value)


def test_later_changes_do_not_reach_the_record():
    value = {"roles": ["admin"]}
    made = copy(a=value)
    value["roles"].append("root")
    assert made == {"a": {"roles": ["admin"]}}


def test_the_hash_of_a_record_is_what_the_documentation_says():
    """Computed by hand, so that a verifier in another language can be written from the page."""
    from hashlib import sha256

    start = sha256(b"otel-perf audit 1\n" + b"ab" * 16).digest()
    first = sha256(start + b'1 5 event 0\n{"a":1}').digest()
    second = sha256(first + b'2 6 event 1\n{"a":2}').digest()
    third = sha256(second + b"s" * 64 + b"3 7 beat 0\n{}").digest()
    assert chain.start("ab" * 16) == start
    assert chain.link(start, None, 1, 5, "event", False, b'{"a":1}') == first
    assert chain.link(first, None, 2, 6, "event", True, b'{"a":2}') == second
    assert chain.link(second, b"s" * 64, 3, 7, "beat", False, b"{}") == third


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"1", b"null", b"{}", b"\xff", b'{"trail":1,"seq":1,"hash":"","key":"","seal":""}',
     b'{"trail":"","seq":true,"hash":"","key":"","seal":""}', b'{"trail":"","seq":-1,"hash":"","key":"","seal":""}',
     b'{"trail":"","seq":1e400,"hash":"","key":"","seal":""}', b'{"trail":"","seq":1,"hash":"x","key":"","seal":""}',
     b'{"trail":"","seq":1,"hash":null,"key":"","seal":""}', b"[" * 4000],
)  # fmt: skip
def test_a_line_that_is_no_checkpoint_is_none(line):
    assert chain.Checkpoint.parse(line) is None


def test_a_checkpoint_reads_back():
    found = chain.Checkpoint("t", 5, "ab", "cd", "ef")
    assert chain.Checkpoint.parse(found.line()) == found
