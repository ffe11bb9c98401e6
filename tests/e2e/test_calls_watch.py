"""Functions that nobody decorated, under opentelemetry-instrument with OTEL_PERF_CALLS_WATCH."""

import json
import subprocess

import pytest

from tests.e2e import programs
from tests.stored import logs, points, spans

SHOP = """
import time
class Cart:
    def total(self): return sum(price(n) for n in range(100))
    @staticmethod
    def pay(): time.sleep(0.02)
def price(n): return n
def order():
    cart = Cart()
    cart.total()
    cart.pay()
def fail(): raise LookupError("no such order")
"""
PROGRAM = """
import shop.orders
for _ in range(3): shop.orders.order()
try: shop.orders.fail()
except LookupError: pass
print("app")
"""


@pytest.fixture
def watched(home, tmp_path):
    """Run a program that finds the package ``shop``, watched."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text(SHOP)

    def watched(text, program=PROGRAM, **variables):
        return programs.run(program, home, cwd=tmp_path, OTEL_PERF_CALLS_WATCH=text, **variables)

    return watched


def functions(home):
    """Calls and errors by function, as the report has them."""
    command = [programs.BIN / "otel-perf", "report", "--json", "--home", home]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: (row["calls"], row["errors"]) for row in json.loads(done.stdout)["functions"]}


ALL = {
    "shop.orders.order": (3, 0),
    "shop.orders.Cart.total": (3, 0),
    "shop.orders.Cart.pay": (3, 0),
    "shop.orders.price": (300, 0),
    "shop.orders.fail": (1, 1),
}


@pytest.mark.parametrize("pure", ["", "1"])
def test_every_call_is_in_the_report_and_the_slow_and_failed_are_spans(home, watched, pure):
    assert watched("shop.*", OTEL_PERF_CALLS_PURE=pure) == programs.Ended(0, "app\n", "")
    assert functions(home) == ALL
    found = {span.span_id: span for span in spans(home)}
    assert sorted(
        (span.name, span.parent_id in found and found[span.parent_id].name) for span in found.values()
    ) == sorted(
        [("shop.orders.order", False), ("shop.orders.Cart.pay", "shop.orders.order")] * 3
        + [("shop.orders.fail", False)]
    )  # fmt: skip


def test_only_what_is_named_is_watched(home, watched):
    assert watched("shop.orders:Cart,shop.orders:price,!*:*.pay").err == ""
    assert functions(home) == {name: ALL[name] for name in ("shop.orders.Cart.total", "shop.orders.price")}
    assert spans(home) == []


def test_a_wrong_pattern_is_one_line_and_the_app_starts(home, watched):
    done = watched("shop.orders:price,shop/orders.py")
    assert (done.status, done.out) == (0, "app\n")
    assert done.err == (
        "otel-perf: OTEL_PERF_CALLS_WATCH: 'shop/orders.py' names no functions;"
        " allowed: module, module:name, both with *, and ! before what to leave out; left out\n"
    )
    assert functions(home) == {"shop.orders.price": (300, 0)}


@pytest.mark.parametrize("variables", [{"OTEL_PERF_CALLS": "off"}, {"OTEL_PERF_ENABLED": "off"}])
def test_switched_off_nothing_is_watched(home, watched, variables):
    program = PROGRAM + "import sys\nprint('otel_perf.calls.watch' in sys.modules, shop.orders.price.__code__.co_names)"
    assert watched("shop.*", program, **variables) == programs.Ended(0, "app\nFalse ()\n", "")
    assert not home.exists()


def test_a_program_that_does_what_is_unusual_does_the_same(home, watched, tmp_path):
    """A failing module, its traceback and its warnings, an uncaught error."""
    (tmp_path / "shop" / "broken.py").write_text("def f(): raise ValueError('broken')\nf()\n")
    (tmp_path / "shop" / "old.py").write_text(
        "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\n"
    )
    program = (
        "import traceback, inspect, pickle\n"
        "try: import shop.broken\nexcept ValueError: traceback.print_exc()\n"
        "import shop.old\n"  # shown only if it is __main__ that the warning names
        "try: import shop.nowhere\nexcept ImportError as error: print(error)\n"
        "import shop.orders\nprint(inspect.getsource(shop.orders.price), pickle.dumps(shop.orders.price))\n"
        "shop.orders.price()"
    )
    ours = watched("shop.*", program)
    theirs = programs.run(program, home, cwd=tmp_path, instrumented=False)
    assert ours == theirs
    assert "DeprecationWarning: old" in ours.err
    assert ours.status == 1


FORKING = """
import os, shop.orders
shop.orders.price(1)
pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        for n in range(10): shop.orders.price(n)
        import shop.late
        shop.late.f()
        os._exit(0)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
"""


def test_forked_children_are_watched_on(home, watched, tmp_path):
    (tmp_path / "shop" / "late.py").write_text("def f(): pass\n")
    assert watched("shop.*", FORKING) == programs.Ended(0, "[0, 0]\n", "")
    assert functions(home) == {"shop.orders.price": (21, 0), "shop.late.f": (2, 0)}


HOT = """
import sys, shop.orders
(watch,) = [finder._ran.__self__ for finder in sys.meta_path if type(finder).__name__ == "Imports"]
for n in range(100): shop.orders.price(n)
watch.look(elapsed=1.0, cost=0.001)
for n in range(50): shop.orders.price(n)
"""


def test_what_is_too_hot_is_said_once_and_counted_on(home, watched):
    done = watched("shop.*", HOT)
    line = (
        "shop.orders.price was called 100 times a second: measuring that cost 10% of a core;"
        " from now on its calls are only counted"
    )
    assert (done.status, done.err) == (0, f"otel-perf: {line}\n")
    assert functions(home) == {"shop.orders.price": (150, 0)}
    assert [point.value for point in points(home) if point.name == "perf.call.untimed"][-1] == 50
    assert [entry.body for entry in logs(home) if entry.event_name == "perf.feature.changed"] == [line]


def test_under_gevent_it_watches_too(home, watched):
    program = (
        "from gevent import monkey; monkey.patch_all()\nimport gevent, shop.orders\n"
        "gevent.joinall([gevent.spawn(shop.orders.order) for _ in range(3)])\nprint('app')"
    )
    assert watched("shop.*", program) == programs.Ended(0, "app\n", "")
    assert functions(home)["shop.orders.order"] == (3, 0)
    assert sorted(span.name for span in spans(home)) == ["shop.orders.Cart.pay"] * 3 + ["shop.orders.order"] * 3


def test_setup_by_hand_finds_what_was_imported_before(home, tmp_path, watched):
    program = "import shop.orders\nfrom shop.orders import price\nimport otel_perf as perf\nperf.setup()\nprice(1)"
    done = programs.run(program, home, cwd=tmp_path, instrumented=False, OTEL_PERF_CALLS_WATCH="shop.*")
    assert (done.status, done.err) == (0, "")
    assert functions(home) == {"shop.orders.price": (1, 0)}
