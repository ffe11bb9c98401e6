"""Functions that nobody decorated are measured as modules are imported, and imports are what they were."""

import asyncio
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.resources
import importlib.util
import inspect
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
import types
import warnings
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import wrapt

import otel_perf as perf
from otel_perf.calls import inplace, watch
from otel_perf.calls.function import FUNCTIONS, OVERFLOW
from otel_perf.calls.patterns import Patterns
from otel_perf.calls.pure import current
from otel_perf.core.guard import Guard
from tests.conftest import _measured
from tests.e2e.support import wait_for


class Host:
    """What the watch asks of the pipeline."""

    def __init__(self):
        self.events, self.problems = [], []
        self._guard = Guard("calls")

    def guard(self, feature):
        return self._guard

    def event(self, event, attributes, *, body=None, **_):
        self.events.append((event.name, attributes, body))

    def problem(self, line):
        self.problems.append(line)


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules that can be imported in this test only."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module that is written twice in a second
    before = set(sys.modules)

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
            path.with_suffix(".py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def watching(calls, host, monkeypatch):
    """Watch what a text names; the returned function ends it."""
    monkeypatch.setattr(watch, "start_new_thread", _measured)
    with contextlib.ExitStack() as stack:

        def watching(text):
            undo = stack.enter_context(contextlib.ExitStack())
            watch.install(text, host, undo)
            return undo.close

        yield watching


def imported(name):
    return importlib.import_module(name)


def counted():
    """Calls by function."""
    return {counts.name: counts.count for counts in FUNCTIONS.counts()}


PRICES = "def price(n):\n    return n * 2\n"


# --- what is measured --------------------------------------------------------------------------------


def test_functions_of_a_module_are_measured_as_it_is_imported(write, watching):
    write(shop__prices=PRICES + "def _round(n): return n", shop__taxes="def tax(): return 1", shopping=PRICES)
    watching("shop.*")
    assert imported("shop.prices").price(2) == 4
    assert imported("shop.prices")._round(2) == 2
    assert imported("shop.taxes").tax() == 1
    imported("shopping").price(1)
    assert counted() == {"shop.prices.price": 1, "shop.prices._round": 1, "shop.taxes.tax": 1}


def test_what_is_left_out_is_not_measured(write, watching):
    write(shop__prices=PRICES + "def hot(): pass", shop__hot=PRICES)
    watching("shop.*, !shop.hot, !shop.prices:hot")
    imported("shop.prices").price(1)
    imported("shop.prices").hot()
    imported("shop.hot").price(1)
    assert counted() == {"shop.prices.price": 1}


def test_a_function_stays_what_it_is(write, watching):
    write(
        shop="""
        def plain(a, b=2, /, c=3, *rest, d, e=5, **more): return a, b, c, rest, d, e, more
        def options(*, d, e=5): return d, e
        def some(*, d, **more): return d, more
        async def awaited(n): return n
        def steps(n):
            got = []
            for one in range(n): got.append((yield one))
            return got
        async def later(n):
            for one in range(n): yield one
        """
    )
    names = ("plain", "options", "some", "awaited", "steps", "later")
    shop = imported("shop")
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)

    def seen(function):
        code = function.__code__
        return (
            inspect.signature(function), inspect.getfullargspec(function), [kind(function) for kind in kinds],
            inspect.getsource(function), inspect.getsourcefile(function), function.__globals__ is vars(shop),
            code.co_name, code.co_varnames[: len(inspect.signature(function).parameters)], vars(function),
        )  # fmt: skip

    before = {name: (getattr(shop, name), seen(getattr(shop, name))) for name in names}
    watching("shop")
    assert {name: (getattr(shop, name), seen(getattr(shop, name))) for name in names} == before

    assert shop.plain(1, d=4) == (1, 2, 3, (), 4, 5, {})
    assert shop.plain(1, 9, 8, 7, 6, d=4, e=0, z=1) == (1, 9, 8, (7, 6), 4, 0, {"z": 1})
    assert (shop.options(d=1), shop.some(d=1, z=2)) == ((1, 5), (1, {"z": 2}))
    assert asyncio.run(shop.awaited(3)) == 3
    steps = shop.steps(2)
    assert [next(steps), steps.send("a")] == [0, 1]
    with pytest.raises(StopIteration) as stop:
        steps.send("b")
    assert stop.value.value == ["a", "b"]

    async def all_of():
        return [one async for one in shop.later(3)]

    assert asyncio.run(all_of()) == [0, 1, 2]
    assert counted() == {
        "shop.plain": 2, "shop.options": 1, "shop.some": 1, "shop.awaited": 1, "shop.steps": 1, "shop.later": 1,
    }  # fmt: skip
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required keyword-only argument: 'd'"):
        shop.plain(1)


def test_defaults_that_are_changed_later_count(write, watching):
    write(shop="def price(n=1): return n")
    watching("shop")
    shop = imported("shop")
    shop.price.__defaults__ = (7,)
    assert shop.price() == 7


def test_a_generator_gets_what_is_thrown_and_is_closed(write, watching, calls):
    write(
        shop="""
        def steps():
            try: yield 1
            except KeyError: yield 2
        async def later():
            try: yield 1
            except KeyError: yield 2
            finally: ended.append("later")
        ended = []
        """
    )
    watching("shop")
    shop = imported("shop")
    steps = shop.steps()
    assert [next(steps), steps.throw(KeyError())] == [1, 2]
    steps.close()

    async def several():
        async with contextlib.aclosing(shop.later()) as first:
            assert [await anext(first), await first.athrow(KeyError())] == [1, 2]
        second = shop.later()
        assert await anext(second) == 1
        with pytest.raises(ValueError, match="unexpected"):
            await second.athrow(ValueError("unexpected"))

    asyncio.run(several())
    assert shop.ended == ["later", "later"]
    assert counted() == {"shop.steps": 1, "shop.later": 2}
    assert [span.status.is_ok for span in calls.spans] == [False]


def test_a_coroutine_made_of_a_generator_can_be_awaited(write, watching):
    write(
        shop="""
        import types
        @types.coroutine
        def pause(): yield
        async def order(): await pause()
        """
    )
    watching("shop")
    asyncio.run(imported("shop").order())
    assert counted() == {"shop.order": 1, "shop.pause": 1}


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    "head", ["def fail(n):", "async def fail(n):", "def fail(n):\n    yield 1", "async def fail(n):\n    yield 1"]
)
def test_a_traceback_is_as_without_us(write, watching, calls, head, on):
    write(shop=f"{head}\n    inner(n)\ndef inner(n):\n    raise LookupError(n)\n")
    watching("shop")
    shop = imported("shop")
    FUNCTIONS.turn(on, slow=3600)

    async def consume():
        return [one async for one in shop.fail(1)]

    def run():
        if inspect.isasyncgenfunction(shop.fail):
            return asyncio.run(consume())
        return asyncio.run(shop.fail(1)) if inspect.iscoroutinefunction(shop.fail) else list(shop.fail(1) or ())

    with pytest.raises(LookupError) as failed:
        run()
    frames = [(frame.name, frame.line) for frame in traceback.extract_tb(failed.tb)]
    assert frames[-2:] == [("fail", "inner(n)"), ("inner", "raise LookupError(n)")]
    assert not any(name in ("fail", "wrapper") for name, _ in frames[:-2])
    assert [span.name for span in calls.spans] == (["shop.inner", "shop.fail"] if on else [])
    for span in calls.spans:
        assert "line 2, in fail\n    def" not in span.events[0].attributes["exception.stacktrace"]


def test_a_failed_call_is_counted_and_a_span(write, watching, calls):
    write(shop="def fail(n):\n    raise LookupError(n)\n")
    watching("shop")
    with pytest.raises(LookupError):
        imported("shop").fail(1)
    (counts,) = FUNCTIONS.counts()
    assert (counts.name, counts.count, counts.errors) == ("shop.fail", 1, 1)
    assert [span.name for span in calls.spans] == ["shop.fail"]
    assert calls.spans[0].attributes["code.line.number"] == 1
    assert calls.spans[0].attributes["code.file.path"] == imported("shop").__file__


@pytest.mark.parametrize("head", ["def deep(n):", "def deep(n, *rest):"])
def test_a_recursion_that_is_too_deep_ends_every_call(write, watching, calls, head):
    write(shop=f"{head}\n    return deep(n + 1)\ndef other(): return 1\n")
    watching("shop")
    shop = imported("shop")
    before = current()
    with pytest.raises(RecursionError):
        shop.deep(0)
    assert current() is before
    shop.other()
    counts = {counts.name: counts for counts in FUNCTIONS.counts()}
    assert counts["shop.deep"].count > 100
    assert counts["shop.other"].self_total == counts["shop.other"].total


def test_what_interrupts_the_call_itself_keeps_its_traceback(write, watching):
    write(shop=PRICES)
    watching("shop")
    shop = imported("shop")
    copy = next(one for one in shop.price.__code__.co_consts if isinstance(one, tuple))[1]
    assert type(copy) is types.FunctionType
    copy.__code__ = (lambda: None).__code__  # cannot be called with an argument: it fails before it has a frame
    with pytest.raises(TypeError) as failed:
        shop.price(1)
    assert failed.traceback[-1].name == "price"


def test_closures_and_super_work(write, watching):
    write(
        shop="""
        def counter():
            n = 0
            def count():
                nonlocal n
                n += 1
                return n
            return count
        count = counter()
        class Base:
            def name(self, __suffix="!"): return "base" + __suffix
        class Cart(Base):
            def name(self, __suffix="?"): return super().name() + __suffix
        """
    )
    watching("shop")
    shop = imported("shop")
    assert [shop.count(), shop.count()] == [1, 2]
    assert shop.Cart().name() == "base!?"
    assert counted() == {"shop.counter.<locals>.count": 2, "shop.Base.name": 1, "shop.Cart.name": 1}


def test_the_locals_of_every_frame_can_be_read(write, watching):
    """As debuggers and error trackers do."""
    write(
        shop="""
        import sys
        def maker(z):
            def inner(q): return dict(sys._getframe(0).f_locals), dict(sys._getframe(1).f_locals), z
            return inner
        inner = maker(5)
        """
    )
    watching("shop")
    own, ours, z = imported("shop").inner(1)
    assert (own["q"], own["z"], z) == (1, 5, 5)
    assert (ours["q"], ours["z"]) == (1, 5)


@pytest.mark.parametrize("kind", ["def log():", "def log():\n    yield"])
def test_a_log_line_names_the_same_place(write, watching, caplog, kind):
    """As helpers that log for their caller ask for."""
    write(
        shop=f"import logging\n{kind}\n    logging.warning('told', stacklevel=2)\ndef order():\n    list(log() or ())\n"
    )
    internal = logging._is_internal_frame
    undo = watching("shop")
    imported("shop").order()
    undo()
    assert logging._is_internal_frame is internal
    assert [(record.funcName, record.lineno) for record in caplog.records] == [("order", kind.count("\n") + 5)]


def test_a_logging_that_somebody_else_changed_is_left_alone(watching, monkeypatch):
    monkeypatch.setattr(logging, "_is_internal_frame", lambda frame: False)
    undo = watching("shop")
    monkeypatch.setattr(logging, "_is_internal_frame", theirs := lambda frame: False)
    undo()
    assert logging._is_internal_frame is theirs
    monkeypatch.delattr(logging, "_is_internal_frame")
    watching("shop")()
    assert not hasattr(logging, "_is_internal_frame")


CLASSES = """
import dataclasses, enum, functools
class Cart:
    def add(self): return "add"
    @staticmethod
    def parse(): return "parse"
    @classmethod
    def load(cls): return cls
    async def wait(self): return "wait"
    class Line:
        def total(self): return "total"
    def _private(self): return "private"
    def __len__(self): return 3
    @property
    def size(self): return 4
    @functools.cached_property
    def cached(self): return 5
    @functools.lru_cache
    def remembered(self): return 6
    short = lambda self: 7
    again = add
class Big(Cart):
    kind = Cart
class Color(enum.Enum):
    RED = 1
    def hex(self): return "f00"
@dataclasses.dataclass(slots=True)
class Point:
    x: int
    def far(self): return self.x
"""


def test_public_methods_are_measured_static_class_and_nested_ones_too(write, watching):
    write(shop=CLASSES)
    watching("shop")
    shop = imported("shop")
    big = shop.Big()
    assert [big.add(), big.again(), big.parse(), shop.Big.load()] == ["add", "add", "parse", shop.Big]
    assert asyncio.run(big.wait()) == "wait"
    assert (shop.Cart.Line().total(), shop.Color.RED.hex(), shop.Point(1).far()) == ("total", "f00", 1)
    assert (big._private(), len(big), big.size, big.cached, big.remembered(), big.short()) == ("private", 3, 4, 5, 6, 7)
    assert counted() == {
        "shop.Cart.add": 2, "shop.Cart.parse": 1, "shop.Cart.load": 1, "shop.Cart.wait": 1, "shop.Cart.Line.total": 1,
        "shop.Color.hex": 1, "shop.Point.far": 1,
    }  # fmt: skip
    assert shop.Cart.add is shop.Cart.again


def test_what_a_module_only_imported_or_made_of_others_is_left_alone(write, watching):
    write(
        other="def helper(): pass\nclass Thing:\n    def do(self): pass\n",
        shop="""
        import functools, json
        from math import sqrt
        from other import helper, Thing
        from json import dumps
        short = lambda: 1
        part = functools.partial(helper)
        def __getattr__(name): return name
        def price(): return sqrt(4), helper(), Thing().do(), dumps({}), short(), part()
        """,
    )
    watching("shop")
    shop = imported("shop")
    shop.price()
    assert shop.missing == "missing"
    assert counted() == {"shop.price": 1}


def test_what_is_decorated_is_measured_once(write, watching):
    write(
        shop="""
        import functools
        import otel_perf as perf
        @perf.monitored(name="mine")
        def price(): return 1
        def twice(function):
            @functools.wraps(function)
            def inner(): return function() + function()
            return inner
        @twice
        @perf.monitored
        def tax(): return 1
        @perf.monitored
        class Cart:
            def add(self): pass
        """
    )
    watching("shop")
    shop = imported("shop")
    shop.price(), shop.tax(), shop.Cart().add()
    assert counted() == {"mine": 1, "shop.tax": 2, "shop.Cart.add": 1}


def test_whoever_has_the_function_has_the_measured_one(write, watching):
    """Routers, subclasses and modules that imported it before."""
    write(
        shop__routes="routes = {}\ndef route(function):\n    routes['/'] = function\n    return function\n",
        shop__views="from shop.routes import route\n@route\ndef home(): return 'home'\n",
        app="from shop.views import home\nkept = [home]\nclass App:\n    view = staticmethod(home)\n",
    )
    app = imported("app")
    watching("shop.views")
    assert [app.home(), app.kept[0](), app.App.view(), imported("shop.routes").routes["/"]()] == ["home"] * 4
    assert counted() == {"shop.views.home": 4}


def test_imports_may_be_circular(write, watching):
    write(
        shop__a="def one(): return 1\nfrom shop import b\ndef two(): return b.one() + 1\n",
        shop__b="from shop.a import one\ndef three(): return one() + 2\n",
    )
    watching("shop.*")
    assert imported("shop.b").three() == 3
    assert imported("shop.a").two() == 2
    assert counted() == {"shop.a.one": 2, "shop.b.three": 1, "shop.a.two": 1}


def test_nothing_of_ours_is_ever_measured(write, watching):
    before = inplace.measured_code.__code__
    watching("otel_perf.*,opentelemetry.*,*")
    importlib.reload(
        imported("otel_perf.calls.exemplars" if "otel_perf.calls.exemplars" in sys.modules else "otel_perf.calls.keys")
    )
    assert inplace.measured_code.__code__ is before
    imported("json").dumps({})
    assert not any(name.startswith(("otel_perf", "opentelemetry", "json")) for name in counted())


def test_a_wrong_pattern_is_one_line_and_the_others_hold(write, watching, host):
    write(shop=PRICES)
    watching("shop:,shop")
    (line,) = host.problems
    assert line.startswith("otel-perf: OTEL_PERF_CALLS_WATCH: 'shop:' names no functions; allowed: module, ")
    imported("shop").price(1)
    assert counted() == {"shop.price": 1}


def test_without_a_pattern_nothing_is_installed(watching, host):
    finders, threads = list(sys.meta_path), len(sys._current_frames())
    watching("shop:")
    assert list(sys.meta_path) == finders
    assert len(sys._current_frames()) == threads


# --- undone ------------------------------------------------------------------------------------------


def test_undo_restores_everything_and_later_imports_are_untouched(write, watching):
    write(early=CLASSES, shop=CLASSES + PRICES, user="from shop import price", late=PRICES)

    def codes(module):
        members = [*vars(module).values(), *vars(module.Cart).values(), *vars(module.Cart.Line).values()]
        functions = [getattr(member, "__func__", member) for member in members]
        return {function: function.__code__ for function in functions if isinstance(function, types.FunctionType)}

    early = imported("early")
    before, finders = codes(early), list(sys.meta_path)
    undo = watching("early,shop,late")
    assert codes(early) != before
    shop, user = imported("shop"), imported("user")
    spec = importlib.util.find_spec("late")
    user.price(1)
    undo()
    assert list(sys.meta_path) == finders
    assert codes(early) == before
    late = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(late)
    before = counted()
    user.price(1), shop.Cart().add(), early.Cart().add(), late.price(1), imported("late").price(1)
    assert counted() == before
    assert "exec_module" not in vars(spec.loader)


def test_what_somebody_else_put_in_its_place_stays(write, watching):
    write(shop=PRICES)
    undo = watching("shop")
    shop = imported("shop")
    shop.price.__code__ = (lambda n: "other").__code__
    undo()
    assert shop.price(1) == "other"


def test_it_can_be_installed_again(write, watching):
    write(shop=PRICES)
    watching("shop")()
    undo = watching("shop")
    imported("shop").price(1)
    assert counted() == {"shop.price": 1}
    undo()
    watching("shop")
    imported("shop").price(1)
    assert counted() == {"shop.price": 2}


def test_turned_off_the_functions_pass(write, watching):
    write(shop=PRICES + "async def wait(): return 1\ndef steps():\n    yield 1\nasync def later():\n    yield 1\n")
    watching("shop")
    shop = imported("shop")
    FUNCTIONS.turn(False)

    async def all_of():
        return [await shop.wait(), *[one async for one in shop.later()]]

    assert [shop.price(1), *asyncio.run(all_of()), *shop.steps()] == [2, 1, 1, 1]
    assert counted() == {}


# --- imports stay what they were ---------------------------------------------------------------------


def test_source_resources_and_pickles_are_found(write, watching, tmp_path):
    write(shop__prices=PRICES + "class Cart:\n    def add(self): return 1\n")
    (tmp_path / "shop" / "data.txt").write_text("data")
    watching("shop.*")
    prices = imported("shop.prices")
    assert inspect.getsource(prices.price) == PRICES
    assert inspect.getsource(prices).startswith(PRICES)
    assert inspect.getfile(prices.price) == prices.__file__
    assert importlib.resources.files("shop").joinpath("data.txt").read_text() == "data"
    for thing in (prices.price, prices.Cart, prices.Cart.add):
        assert pickle.loads(pickle.dumps(thing)) is thing
    assert pickle.loads(pickle.dumps(prices.Cart().add))() == 1


def test_module_spec_and_loader_are_as_without_us(write, watching):
    write(shop=PRICES, plain=PRICES)

    def seen(name):
        module = imported(name)
        loader = module.__loader__
        assert loader is module.__spec__.loader
        return type(loader), sorted(vars(loader)), sorted(vars(module)), module.__spec__._initializing

    watching("shop")
    assert seen("shop") == seen("plain")


def test_a_reloaded_module_is_measured_and_the_old_one_goes(write, watching):
    write(shop=PRICES)
    watching("shop")
    shop = imported("shop")
    shop.price(1)
    old = weakref.ref(shop.price)
    write(shop=PRICES + "def tax(): return 1\n")
    assert importlib.reload(shop) is shop
    shop.price(1), shop.tax()
    gc.collect()
    assert counted() == {"shop.price": 2, "shop.tax": 1}
    assert old() is None


def test_a_lazily_loaded_module_is_measured_when_it_loads(write, watching):
    write(lazy="loaded.append(1)\n" + PRICES, early="loaded.append(2)\n" + PRICES)
    loaded = []

    def lazily(name):
        spec = importlib.util.find_spec(name)
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def put_in(module):
        types.ModuleType.__dict__["__dict__"].__get__(module)["loaded"] = loaded

    early = lazily("early")
    put_in(early)
    watching("lazy,early")
    lazy = lazily("lazy")
    put_in(lazy)
    assert loaded == []
    assert lazy.price(1) == 2
    assert loaded == [1]
    assert counted() == {"lazy.price": 1}
    early.price(1)  # it was found before we were there
    assert loaded == [1, 2]


def test_nothing_that_a_module_holds_is_woken(write, watching):
    write(
        shop="""
        import sys, types
        woken = []
        class Lazy:
            @property
            def __class__(self): woken.append("class"); return Lazy
            def __getattribute__(self, name): woken.append(name); raise AttributeError(name)
        lazy = Lazy()
        class Meta(type):
            def __getattribute__(cls, name): woken.append(name); return super().__getattribute__(name)
            def __setattr__(cls, name, value): woken.append(name); super().__setattr__(name, value)
        class Cart(metaclass=Meta):
            lazy = lazy
            def add(self): return 1
        class Module(types.ModuleType):
            @property
            def __dict__(self): woken.append("__dict__"); return {}
            def __getattribute__(self, name): woken.append(name); return super().__getattribute__(name)
        sys.modules["shop_lazy"] = Module("shop_lazy")
        sys.modules["shop_none"] = None
        del woken[:]
        """
    )
    undo = watching("shop,shop_lazy")
    shop = imported("shop")
    undo()
    watching("shop*")
    assert list(shop.woken) == []
    assert shop.Cart().add() == 1
    assert counted() == {"shop.Cart.add": 1}


def test_namespace_packages_stay_namespace_packages(write, watching, tmp_path):
    (tmp_path / "parts" / "shop").mkdir(parents=True)
    (tmp_path / "parts" / "shop" / "prices.py").write_text(PRICES)
    watching("parts.*")
    assert imported("parts.shop.prices").price(1) == 2
    assert imported("parts.shop").__file__ is None
    assert counted() == {"parts.shop.prices.price": 1}


@pytest.fixture
def zipped(tmp_path, monkeypatch, write):
    """Modules a0 to a19 in a zip file: they share one loader."""
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"a{number}.py", "import time\ntime.sleep(0.001)\n" + PRICES)
    monkeypatch.syspath_prepend(tmp_path / "shop.zip")


def test_a_zip_file_is_imported_from(zipped, watching):
    watching("a0,a2")
    assert [imported(f"a{number}").price(1) for number in range(3)] == [2] * 3
    loader = imported("a0").__loader__
    assert counted() == {"a0.price": 1, "a2.price": 1}
    assert "exec_module" not in vars(loader)
    assert inspect.getsource(imported("a0").price) == PRICES


def test_what_was_only_looked_for_is_in_nobodys_way(zipped, watching):
    watching("a*")
    assert importlib.util.find_spec("a5") is not None
    assert [imported(f"a{number}").price(1) for number in (4, 6, 5)] == [2] * 3
    assert counted() == {"a4.price": 1, "a6.price": 1, "a5.price": 1}
    assert "exec_module" not in vars(imported("a5").__loader__)


def test_threads_import_at_once(zipped, watching, write):
    write(**{f"shop__b{number}": "import time\ntime.sleep(0.001)\n" + PRICES for number in range(20)})
    watching("a*,shop.*")
    names = [f"a{number}" for number in range(20)] + [f"shop.b{number}" for number in range(20)]
    barrier = threading.Barrier(8)

    def run(_):
        barrier.wait()
        return [imported(name).price(1) for name in names]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(8))) == [[2] * len(names)] * 8
    assert counted() == {f"{name}.price": 8 for name in names}


FAILING = "def price(): pass\ndef fail(): raise ValueError('broken')\nfail()\n"


def test_a_module_that_fails_fails_as_before(write, watching):
    write(failing=FAILING, shop=FAILING.replace("ValueError", "ImportError"))

    def failed(name):
        program = f"import {name}"
        with pytest.raises((ValueError, ImportError)) as raised:
            exec(compile(program, "program", "exec"), {})
        return "".join(traceback.format_exception(raised.value)).partition('File "program"')[2]

    before = [failed("failing"), failed("shop")]
    watching("failing,shop")
    assert [failed("failing"), failed("shop")] == before
    assert "failing" not in sys.modules
    write(failing=PRICES)
    assert imported("failing").price(1) == 2
    assert counted() == {"failing.price": 1}


def test_a_warning_of_an_import_names_the_same_place(write, watching):
    write(
        old="import warnings\nwarnings.warn('old is old', DeprecationWarning, stacklevel=2)\n",
        user="import old\n",
    )
    watching("old")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        user = imported("user")
    assert [(warning.filename, warning.lineno) for warning in found] == [(user.__file__, 1)]


def test_a_missing_module_is_missing(write, watching):
    write(shop__prices=PRICES)
    watching("shop.*,nowhere")
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        imported("nowhere")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'shop\.nowhere'"):
        imported("shop.nowhere")
    assert importlib.util.find_spec("nowhere") is None


def test_what_is_built_in_is_left_alone(watching):
    name = next(name for name in sys.builtin_module_names if name not in sys.modules)
    watching(name)
    spec = importlib.util.find_spec(name)
    assert "exec_module" in vars(spec.loader)  # a class, with a method of its own
    assert spec.loader is importlib.machinery.BuiltinImporter


def test_modules_without_a_name_are_left_alone(write, watching, monkeypatch):
    write(shop=PRICES + "__name__ = None\n")
    odd = types.ModuleType("odd")
    odd.__name__ = None
    monkeypatch.setitem(sys.modules, "odd", odd)
    watching("shop,odd")
    assert imported("shop").price(1) == 2
    assert counted() == {}


class Finder:
    """Somebody else's finder: of ``shop``, with this loader."""

    def __init__(self, loader):
        self.loader, self.asked = loader, 0

    def find_spec(self, name, path=None, target=None):
        if name != "shop":
            return None
        self.asked += 1
        return importlib.util.spec_from_loader(name, self.loader)


class Loader:
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(PRICES, vars(module))


class Fixed:
    """Takes no attribute."""

    __slots__ = ()
    create_module = Loader.create_module
    exec_module = Loader.exec_module


class Locked(Loader):
    def __setattr__(self, name, value):
        raise AttributeError(name)


class Made(Loader):
    """Makes a module that is none, and has its own way to run it."""

    def __init__(self):
        self.exec_module = self.run

    def create_module(self, spec):
        return types.SimpleNamespace()

    def run(self, module):
        exec(PRICES, vars(module))


class Failing(Loader):
    def __getattribute__(self, name):
        if name == "__wrapped__":
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("loader", "measured"), [(Loader, True), (Fixed, False), (Locked, False), (Made, False), (Failing, False)]
)
def test_whatever_the_loader_the_import_works(watching, monkeypatch, absorbing, calls, loader, measured):
    from otel_perf.core import guard

    guard.strict(False)  # the fixture "calls" raises
    finder = Finder(loader())
    before = dict(vars(finder.loader)) if hasattr(finder.loader, "__dict__") else None
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    watching("shop")
    try:
        assert imported("shop").price(2) == 4
    finally:
        del sys.modules["shop"]
    assert finder.asked == 1
    assert counted() == ({"shop.price": 1} if measured else {})
    assert before is None or vars(finder.loader) == before


@pytest.mark.parametrize("first", [True, False])
def test_post_import_hooks_of_wrapt_run_once(write, watching, monkeypatch, first):
    """Most instrumentors are such hooks; their finder is before or behind ours."""
    write(shop=PRICES)
    seen = []
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(wrapt.importer, "_post_import_hooks_init", False)

    def hook():
        wrapt.register_post_import_hook(lambda module: seen.append(module.price(1)), "shop")

    if first:
        hook()
    watching("shop")
    if not first:
        hook()
    shop = imported("shop")
    assert seen == [2]
    shop.price(1)
    assert counted()["shop.price"] >= 1
    assert type(shop.__loader__).__name__ == "SourceFileLoader"
    assert "exec_module" not in vars(shop.__loader__)


def test_a_finder_may_ask_the_others(write, watching, monkeypatch):
    """As wrapt's does, and without the precautions."""
    write(shop=PRICES, other=PRICES)

    class Asking:
        depth = 0

        def find_spec(self, name, path=None, target=None):
            if name != "shop" or self.depth:
                return None
            self.depth += 1
            imported("other")
            try:
                return importlib.util.find_spec(name)
            finally:
                self.depth -= 1

    monkeypatch.setattr(sys, "meta_path", [Asking(), *sys.meta_path])
    watching("shop,other")
    imported("shop").price(1)
    imported("other").price(1)
    assert counted() == {"shop.price": 1, "other.price": 1}


def test_whatever_fails_in_it_the_import_works(write, watching, host, calls, monkeypatch, absorbing, caplog):
    from otel_perf.core import guard

    guard.strict(False)
    write(shop=PRICES + "def tax(): return 1\n", other=PRICES)
    code_of = inplace.measured_code

    def broken(target, function):
        if target.__name__ == "tax":
            raise ZeroDivisionError
        return code_of(target, function)

    monkeypatch.setattr(watch, "measured_code", broken)
    watching("shop,other")
    shop = imported("shop")
    assert (shop.price(1), shop.tax()) == (2, 1)
    assert counted() == {"shop.price": 1}
    assert caplog.text.count("internal error in calls (the application is not affected)") == 1
    monkeypatch.setattr(watch, "_functions_of", lambda *_: 1 / 0)
    assert imported("other").price(1) == 2
    assert host.guard("calls").errors == 2


# --- too hot -----------------------------------------------------------------------------------------


@pytest.fixture
def watched(calls, host, write, monkeypatch):
    """A watch that looks when it is told to."""
    monkeypatch.setattr(watch, "_look_out", lambda *_: None)
    made = []
    watch_type = watch.Watch
    monkeypatch.setattr(watch, "Watch", lambda *given: made.append(watch_type(*given)) or made[0])
    with contextlib.ExitStack() as undo:

        def watched(text):
            watch.install(text, host, undo)
            return made[0]

        yield watched


def untimed():
    return {counts.name: counts.untimed for counts in FUNCTIONS.counts() if counts.untimed}


def test_a_function_too_hot_is_stepped_down_told_once_and_counts_on(write, watched, host):
    write(shop=PRICES + "def tax(): return 1\n")
    watching = watched("shop")
    shop = imported("shop")
    for _ in range(600):
        shop.price(1)
    for _ in range(500):
        shop.tax()
    watching.look(elapsed=10.0, cost=0.001)  # 6 % and exactly 5 % of a core
    line = (
        "shop.price was called 60 times a second: measuring that cost 6% of a core;"
        " from now on its calls are only counted"
    )
    assert host.problems == [f"otel-perf: {line}"]
    assert host.events == [
        (
            "perf.feature.changed",
            {"perf.feature": "calls", "perf.feature.state": "stepped down", "code.function.name": "shop.price"},
            line,
        )
    ]
    for _ in range(600):
        assert shop.price(1) == 2
        shop.tax()
    watching.look(elapsed=10.0, cost=0.001)
    assert [problem.split()[1] for problem in host.problems] == ["shop.price", "shop.tax"]
    watching.look(elapsed=10.0, cost=1.0)
    assert len(host.problems) == 2
    assert counted() == {"shop.price": 600, "shop.tax": 1100}
    assert untimed() == {"shop.price": 600}


@pytest.mark.parametrize(
    "kind", ["async def hot(): return 1", "def hot():\n    yield 1", "async def hot():\n    yield 1"]
)
def test_every_kind_of_function_counts_on(write, watched, kind):
    write(shop=kind)
    watching = watched("shop")
    hot = imported("shop").hot

    async def run():
        if inspect.isasyncgenfunction(hot):
            return [one async for one in hot()]
        return list(hot()) if inspect.isgeneratorfunction(hot) else [await hot()]

    assert asyncio.run(run()) == [1]
    watching.look(elapsed=1.0, cost=1.0)
    assert asyncio.run(run()) == [1]
    assert (counted(), untimed()) == ({"shop.hot": 1}, {"shop.hot": 1})


def test_only_the_calls_since_the_last_look_are_looked_at(write, watched, host):
    write(shop=PRICES)
    watching = watched("shop")
    shop = imported("shop")
    for _ in range(3):
        for _ in range(400):
            shop.price(1)
        watching.look(elapsed=10.0, cost=0.001)
    assert host.problems == []


def test_a_reloaded_function_that_is_too_hot_is_stepped_down_again(write, watched, host):
    write(shop=PRICES)
    watching = watched("shop")
    shop = imported("shop")
    shop.price(1)
    watching.look(elapsed=1.0, cost=1.0)
    importlib.reload(shop)
    shop.price(1)
    watching.look(elapsed=1.0, cost=1.0)
    shop.price(1)
    assert (counted(), untimed()) == ({"shop.price": 2}, {"shop.price": 1})


def test_functions_that_share_their_counts_are_stepped_down_together_and_told_once(write, watched, host, monkeypatch):
    monkeypatch.setattr(FUNCTIONS.add.__self__, "limit", 1)
    write(shop=PRICES + "def tax(): return 1\ndef fee(): return 1\n")
    watching = watched("shop")
    shop = imported("shop")
    shop.price(1), shop.tax(), shop.fee()
    watching.look(elapsed=10.0, cost=0.3)  # price 3 %, the others 6 % together
    (line,) = host.problems
    assert line.startswith("otel-perf: the watched functions beyond OTEL_PERF_CALLS_FUNCTIONS were called 0 times")
    assert line.endswith("measuring that cost 6% of a core; from now on their calls are only counted")
    assert host.events[0][1] == {"perf.feature": "calls", "perf.feature.state": "stepped down", OVERFLOW: True}
    shop.tax(), shop.fee()
    assert untimed() == {OVERFLOW: 2}


def test_it_is_looked_at_from_a_thread_that_nobody_meets(write, watching, host, monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.01)
    monkeypatch.setattr(watch, "SHARE", 0.0)
    write(shop=PRICES)
    before = threading.enumerate()
    undo = watching("shop")
    assert threading.enumerate() == before
    imported("shop").price(1)
    wait_for(lambda: host.problems, what="the step down")
    undo()
    frames = len(sys._current_frames())
    wait_for(lambda: len(sys._current_frames()) < frames or frames == len(before), what="the thread's end")


def test_what_a_call_costs_is_measured(calls):
    assert 1e-7 <= watch.cost_of_a_call() < 1e-4
    assert counted() == {}


# --- forks -------------------------------------------------------------------------------------------


def in_child(check):
    """Run ``check`` in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_keeps_watching(write, watching, host, monkeypatch):
    write(shop=PRICES, late=PRICES)
    watching("shop,late")
    shop = imported("shop")
    shop.price(1)

    def child():
        monkeypatch.setattr(watch, "SHARE", 0.0)
        before = counted()
        shop.price(1), imported("late").price(1)
        return {name: count - before.get(name, 0) for name, count in counted().items()} == {
            "shop.price": 1,
            "late.price": 1,
        }

    assert in_child(child) == 0
    assert counted() == {"shop.price": 1}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_steps_down_too(write, watching, host, monkeypatch):
    write(shop=PRICES)
    watching("shop")
    shop = imported("shop")
    monkeypatch.setattr(watch, "PERIOD", 0.01)
    monkeypatch.setattr(watch, "SHARE", 0.0)

    def child():
        shop.price(1)
        return wait_for(lambda: host.problems, what="the step down")

    assert in_child(child) == 0
    assert host.problems == []


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_that_is_forked_in_the_midst_of_an_import_imports_on(zipped, watching):
    """Another thread of the parent holds what an import takes."""
    watching("a*")
    (imports,) = [finder for finder in sys.meta_path if type(finder).__name__ == "Imports"]
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with imports._lock:
            held.set()
            go_on.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        assert in_child(lambda: imported("a1").price(1) == 2) == 0
    finally:
        go_on.set()
        thread.join()


# --- finalizers --------------------------------------------------------------------------------------

FINALIZERS = """
import contextlib, contextvars, gc, sys
from otel_perf.calls import finalizers, watch
from otel_perf.calls.function import FUNCTIONS
from tests.calls.test_watch import Host
others = [contextvars.ContextVar(str(number)) for number in range(50)]
for variable in others:
    variable.set(variable)
with contextlib.ExitStack() as undo:
    FUNCTIONS.turn(True, slow=3600)
    finalizers.install(undo)  # as the feature does
    watch.install("connections", Host(), undo)
    from connections import Connection, work
    for number in range(100_000):
        gc.set_threshold(number % 9 + 1)
        Connection()
        work()
    assert gc.callbacks or sys.version_info >= (3, 12)
print(len(gc.callbacks))
"""


@pytest.mark.parametrize("pure", ["", "1"])
def test_finalizers_may_call_watched_functions(tmp_path, pure):
    """CPython 3.11 crashes when they do so in the midst of ContextVar.set, unless something is done about it."""
    (tmp_path / "connections.py").write_text(
        "class Connection:\n    def __init__(self): self.me = self\n    def __del__(self): self.close()\n"
        "    def close(self): pass\ndef work(): pass\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}", "OTEL_PERF_CALLS_PURE": pure}
    done = subprocess.run(
        [sys.executable, "-c", FINALIZERS], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# --- with other tools --------------------------------------------------------------------------------


def test_it_runs_under_tracing_and_profiling(write, watching):
    """Debuggers and coverage see the function's own lines, once."""
    write(shop="def price(n):\n    n += 1\n    return n\n")
    watching("shop")
    price = imported("shop").price
    lines = []

    def trace(frame, event, argument):
        if frame.f_code.co_name == "price" and event == "line":
            lines.append(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert price(1) == 2
    finally:
        sys.settrace(before)
    assert [line for line in lines if line != 1] == [2, 3]


def test_a_processpool_takes_a_watched_function(write, watching, tmp_path):
    write(shop=PRICES)
    program = (
        "import multiprocessing, sys\nsys.path.insert(0, sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    import contextlib\nfrom otel_perf.calls import watch\nfrom tests.calls.test_watch import Host\n"
        "if __name__ == '__main__':\n"
        "    with contextlib.ExitStack() as undo:\n"
        "        watch.install('shop', Host(), undo)\n"
        "        import shop\n"
        "        with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "            print(pool.map(shop.price, [1, 2]))\n"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run([sys.executable, path, tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 4]\n", "")


def test_patterns_decide_by_the_functions_own_name(calls, host):
    watching = watch.Watch(Patterns("shop:price"), host)
    module = types.ModuleType("shop")
    exec(PRICES + "other = price\ndef tax(): pass\n", vars(module))
    watching.watch(module)
    module.other(1), module.tax()
    assert counted() == {"shop.price": 1}
    watching.undo()


def test_a_decorated_class_may_be_watched_too(calls, host):
    """The decorator was there first."""

    @perf.monitored
    class Cart:
        def add(self):
            return 1

    watching = watch.Watch(Patterns(__name__), host)
    module = types.ModuleType(__name__)
    module.Cart = Cart
    watching.watch(module)
    Cart().add()
    assert list(counted().values()) == [1]
    watching.undo()
