"""Lines for people."""

import pytest

from otel_perf.logs.redaction import Redactor
from otel_perf.logs.text_format import TextEncoder
from tests.logs.test_json_format import ENDLESS, ODD, OddError, failed, record


@pytest.mark.parametrize("name", sorted(ODD.keys() - ENDLESS))
def test_anything_gives_a_line_of_its_size(name):
    for limit in (4096, 65_536):
        encoder = TextEncoder("shop", limit=limit, redactor=Redactor())
        for made in (
            record("x", value=ODD[name]), record("%s", [ODD[name]]), record(ODD[name], a=ODD["long"]),
            record("x", exc_info=failed(OddError(ODD[name])), stack="x" * 100_000),
        ):  # fmt: skip
            assert len(encoder.line(made).encode()) <= limit


def test_what_is_long_everywhere_and_takes_four_bytes_a_sign_is_of_its_size_too():
    signs = ODD["emoji"]
    made = record(signs, a=signs, stack=signs, name=signs)
    made.exc_text = signs
    line = TextEncoder("shop", limit=4096, redactor=Redactor()).line(made)
    assert 4000 < len(line.encode()) <= 4096
    assert line.endswith("…[cut]")


def test_values_are_told_apart():
    line = TextEncoder("shop").line(record("x", a="b c", d="", e='"', f=[1, "2"], g="plain", **{"h i": 1}))
    assert line.endswith(' x a="b c" d="" e="\\"" f=[1, "2"] g=plain h_i=1')


def test_a_line_of_another_library():
    line = TextEncoder("shop").compose(
        time=1.5, level="INFO", levelno=20, logger="shop", message="hello", attributes={"a": 1},
        error=ValueError("no"), ids=("1" * 32, "2" * 16, True), correlation="job-7", place=("a.py", 1, "f"),
    )  # fmt: skip
    assert line == (
        f"1970-01-01T00:00:01.500000Z INFO     [shop] hello a=1 trace_id={'1' * 32} span_id={'2' * 16}"
        " correlation_id=job-7\nValueError: no"
    )


def test_the_last_resort_is_a_line_as_well(monkeypatch):
    encoder = TextEncoder("shop")
    monkeypatch.setattr(encoder, "_line", lambda parts: 1 / 0)
    assert encoder.line(record("x")).endswith("a record that could not be written")
