"""Which functions an OTEL_PERF_CALLS_WATCH names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.calls.patterns import Patterns


@pytest.mark.parametrize(
    ("text", "module", "named"),
    [
        ("shop", "shop", True),
        ("shop", "shop.orders", False),
        ("shop", "shopping", False),
        ("shop.*", "shop", True),
        ("shop.*", "shop.orders", True),
        ("shop.*", "shop.orders.prices", True),
        ("shop.*", "shopping", False),
        ("shop.*", "my.shop", False),
        ("shop*", "shopping", True),
        ("shop.*.models", "shop.orders.models", True),
        ("shop.*.models", "shop.models", False),
        ("shop.order?", "shop.orders", True),
        ("shop.[op]*", "shop.prices", True),
        ("shop.[op]*", "shop.taxes", False),
        ("Shop", "shop", False),
        ("shop:*", "shop", True),
        ("shop:price", "shop", True),
        ("shop.*,db", "db", True),
        (" shop.* , db ,", "shop.orders", True),
        ("shop.*,!shop.hot", "shop.hot", False),
        ("shop.*,!shop.hot", "shop.hot.deep", True),
        ("shop.*,!shop.hot.*", "shop.hot.deep", False),
        ("!shop.hot,shop.*", "shop.hot", False),
        ("shop.*,!shop.hot:price", "shop.hot", True),
        ("*", "shop", True),
        ("*", "json", False),
        ("*", "json.decoder", False),
        ("j*", "json.decoder", False),
        ("j*", "jam", True),
        ("json.*", "json.decoder", True),
        ("shop,!*", "shop", False),
        ("json,!*", "json", False),
    ],
)
def test_a_module_is_named(text, module, named):
    patterns = Patterns(text)
    assert patterns.problems == []
    assert patterns.is_for_module(module) is named


@pytest.mark.parametrize(
    ("text", "function", "named"),
    [
        ("shop", "price", True),
        ("shop", "Cart.add", True),
        ("shop:*", "Cart.add", True),
        ("shop:price", "price", True),
        ("shop:price", "prices", False),
        ("shop:price*", "prices", True),
        ("shop:Cart.*", "Cart.add", True),
        ("shop:Cart.*", "Cart", False),
        ("shop:Cart.add", "Cart.add", True),
        ("shop:Cart.add", "Cart.remove", False),
        ("shop:Cart", "Cart.add", True),
        ("shop:Cart", "Cart.Line.total", True),
        ("shop:Cart", "Cartoon.draw", False),
        ("shop:*.add", "Cart.add", True),
        ("*:Cart", "Cart.add", True),
        ("shop.*:price", "price", True),
        ("shop,!shop:price", "price", False),
        ("shop,!shop:price", "Cart.add", True),
        ("shop,!shop:Cart", "Cart.add", False),
        ("shop,!*:add", "Cart.add", True),
        ("shop,!*:*.add", "Cart.add", False),
        ("shop:price,!shop:price", "price", False),
        ("other", "price", False),
    ],
)
def test_a_function_of_the_module_shop_is_named(text, function, named):
    patterns = Patterns(text)
    assert patterns.problems == []
    assert patterns.is_for("shop", function) is named


@pytest.mark.parametrize(
    "entry",
    ["shop:", ":price", "!", "!:price", "a:b:c", "shop/main.py", "a b", "shop..x", ".shop", "shop.", "shop:Cart.", "*:", "ä+b"],
)  # fmt: skip
def test_what_cannot_be_an_entry_is_one_clear_line_and_the_others_hold(entry):
    patterns = Patterns(f"shop,{entry}")
    (line,) = patterns.problems
    assert line.startswith(f"OTEL_PERF_CALLS_WATCH: {entry!r} names no functions; allowed: module, module:name, ")
    assert line.endswith("left out")
    assert patterns.is_for_module("shop")


def test_only_what_to_leave_out_is_one_clear_line():
    patterns = Patterns("!shop.hot")
    assert not patterns
    assert patterns.problems == ["OTEL_PERF_CALLS_WATCH: '!shop.hot' says only what to leave out; nothing is watched"]


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_nothing_is_no_problem(text):
    patterns = Patterns(text)
    assert not patterns
    assert patterns.problems == []
    assert not patterns.is_for_module("shop")


TEXT = st.text(st.sampled_from("ab.:*!,?[] -"), max_size=12)
NAME = st.text(st.sampled_from("ab."), min_size=1, max_size=6)


@given(TEXT, NAME, NAME)
def test_a_function_is_never_meant_where_its_module_is_not(text, module, function):
    patterns = Patterns(text)
    if patterns.is_for(module, function):
        assert patterns.is_for_module(module)
        assert patterns


@given(TEXT, NAME, NAME)
def test_what_is_left_out_stays_out(text, module, function):
    left_out = Patterns(f"{text},!{module}")
    if not left_out.problems:
        assert not left_out.is_for(module, function)
