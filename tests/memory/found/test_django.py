"""The caches of Django's settings, with the real Django and each backend that it brings and that runs here."""

import asyncio
import threading
from contextlib import ExitStack

import django
import pytest
from django.conf import settings
from django.core.cache import CacheHandler, caches
from django.core.cache.backends import locmem
from django.core.cache.backends.base import BaseCache
from django.core.management import call_command
from django.test import override_settings

from otel_perf.memory.cache_metrics import EVICTIONS, HITS, LIMIT, SIZE

KINDS = (CacheHandler, BaseCache, locmem.LocMemCache)
PLAIN = {kind: dict(vars(kind)) for kind in KINDS}
BACKENDS = ("locmem.LocMemCache", "filebased.FileBasedCache", "db.DatabaseCache", "redis.RedisCache")


@pytest.fixture(scope="module", autouse=True)
def _django():
    if not settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        settings.configure(DATABASES={"default": database}, USE_TZ=True)
        django.setup()


@pytest.fixture
def configure(tmp_path, request):
    """Make the settings' only cache, as Django does when it is asked for."""
    with ExitStack() as stack:

        def configure(backend, alias="default", **options):
            location = str(tmp_path)
            if backend.startswith("redis."):
                location = f"redis://127.0.0.1:{request.getfixturevalue('redis_server')}/5"
            elif backend.startswith("db."):
                location = "cache_table"
            full = backend if backend.startswith(__name__) else f"django.core.cache.backends.{backend}"
            stack.enter_context(override_settings(CACHES={alias: {"BACKEND": full, "LOCATION": location, **options}}))
            if backend.startswith("db."):
                call_command("createcachetable", verbosity=0)
            stack.callback(caches[alias].clear)
            return caches[alias]

        yield configure


@pytest.fixture(params=BACKENDS)
def cache(found, configure, request):
    """A cache of each kind; it has a, b and none."""
    made = configure(request.param)
    made.set_many({"a": 1, "b": 2, "none": None})
    return made


def test_a_value_that_is_there_is_a_hit(found, cache):
    assert [cache.get("a"), cache.get("none", 7), cache.get("x"), cache.get("x", 7), cache.get("x", default=8)] == [
        1, None, None, 7, 8,
    ]  # fmt: skip
    assert cache.get(key="a", version=None) == 1
    assert found.asked("django.default") == (3, 3)


def test_each_key_of_many_counts(found, cache):
    assert cache.get_many(["a", "x", "none"]) == {"a": 1, "none": None}
    assert found.asked("django.default") == (2, 1)
    assert cache.get_many(key for key in ("a", "x")) == {"a": 1}
    assert cache.get_many(keys=iter(["b"]), version=1) == {"b": 2}
    assert cache.get_many([]) == {}
    assert found.asked("django.default") == (4, 2)


def test_get_or_set_is_one_look_up(found, cache):
    assert cache.get_or_set("x", 5) == 5
    assert found.asked("django.default") == (0, 1)
    assert cache.get_or_set("x", 6) == 5
    assert found.asked("django.default") == (1, 1)
    assert cache.get_or_set("y", lambda: cache.get("a") + cache.get_or_set("z", lambda: 1)) == 2  # three look-ups
    assert found.asked("django.default") == (2, 3)


def test_what_asks_for_no_value_is_not_counted(found, cache):
    assert ("a" in cache, cache.has_key("x"), cache.incr("a"), cache.decr("a"), cache.add("a", 1)) == (
        True, False, 2, 1, False,
    )  # fmt: skip
    assert cache.incr_version("b") == 2
    assert cache.touch("a")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("x")
    assert found.asked("django.default") == (0, 0)


# A database in memory belongs to one thread.
@pytest.mark.parametrize("cache", [name for name in BACKENDS if name != "db.DatabaseCache"], indirect=True)
def test_the_asynchronous_twins_count_once(found, cache):
    async def main():
        assert [await cache.aget("a"), await cache.aget("x"), await cache.aget("x", 7)] == [1, None, 7]
        assert await cache.aget_many(["a", "x"]) == {"a": 1}
        assert await cache.aget_or_set("y", 5) == 5
        assert not await cache.ahas_key("x")
        assert await cache.aincr("a") == 2
        assert await asyncio.gather(*(cache.aget(key) for key in ("a", "x"))) == [2, None]

    asyncio.run(main())
    assert found.asked("django.default") == (3, 5)


def test_answers_are_the_same_as_without(found, cache):
    def answers():
        cache.clear()
        yield cache.set("a", 1)
        yield cache.get_or_set("b", lambda: 2)
        yield from (cache.get("a"), cache.get("x"), cache.get("x", 3), cache.get("b", version=2))
        yield cache.get_many(["a", "b", "x"])
        yield from ("a" in cache, "x" in cache, cache.incr("a"), cache.get("a"))
        for call in (
            cache.get,
            lambda: cache.get("a", 1, default=2),
            lambda: cache.get_many(5),
            lambda: cache.incr("x"),
        ):
            try:
                yield call()
            except Exception as error:
                yield type(error), str(error)

    watched = list(answers())
    hits = found(HITS)["django.default"]
    found.undo.close()
    assert list(answers()) == watched
    assert hits == 4


def test_no_cache_of_redis_is_counted_for_what_django_asks(found, configure):
    configure("redis.RedisCache").get("x")
    assert found.asked("django.default") == (0, 1)
    assert not [name for name in found(HITS) if name.startswith("redis.")]
    assert not [metric for metric in (SIZE, LIMIT, EVICTIONS) if "django.default" in found(metric)]


def test_a_local_caches_size_and_evictions_are_known(found, configure):
    cache = configure("locmem.LocMemCache", "pages", OPTIONS={"MAX_ENTRIES": 6, "CULL_FREQUENCY": 2})
    for number in range(7):
        cache.set(f"k{number}", number)
    cache.get("k6")
    assert found.all_of("django.pages") == [1, 0, 3, 4, 6, 1.0]


def test_threads_are_summed_up_and_their_entries_are_the_same(found, configure):
    configure("locmem.LocMemCache").set("a", 1)
    objects = []

    def work():
        objects.append(caches["default"])
        for _ in range(1000):
            caches["default"].get("a"), caches["default"].get("x")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(made) for made in objects}) == 4
    assert found.all_of("django.default") == [4000, 4000, 0, 1, 300, 0.5]
    objects.clear()
    assert found.asked("django.default") == (4000, 4000)


class Layered(BaseCache):
    """A backend of somebody's: asynchronous by itself, in front of another, with an answer of its own."""

    def __init__(self, name, params):
        super().__init__(params)
        self.entries = {}

    def set(self, key, value, timeout=None, version=None):
        self.entries[key] = value

    def add(self, key, value, timeout=None, version=None):
        self.set(key, value)

    def clear(self):
        self.entries.clear()

    def get(self, key, default="nothing", version=None):
        return self.entries.get(key, default)

    def get_many(self, keys, version=None):
        return super().get_many(keys, version)

    async def aget(self, key, default="nothing", version=None):
        await asyncio.sleep(0)
        return self.get(key, default, version)

    async def aget_many(self, keys, version=None):
        pairs = zip(keys, await asyncio.gather(*(self.aget(key, None) for key in keys)), strict=True)
        return {key: value for key, value in pairs if value is not None}


class Ready(Layered):
    def get(self, key, version=None):
        return super().get(key, None, version)


def test_a_backend_of_somebodys_is_counted_and_answers_as_it_does(found, configure):
    cache = configure(f"{__name__}.Layered")
    cache.set("a", 1)
    assert (cache.get("x"), cache.get("x", None), cache.get("a"), cache.get_many(["a", "x"])) == (
        "nothing", None, 1, {"a": 1},
    )  # fmt: skip
    assert found.asked("django.default") == (2, 3)

    async def main():
        assert [await cache.aget("x"), await cache.aget("a"), await cache.aget_many(["a", "x"])] == [
            "nothing", 1, {"a": 1},
        ]  # fmt: skip
        assert await cache.aget_or_set("b", 5) == 5

    asyncio.run(main())
    assert found.asked("django.default") == (4, 6)


def test_a_get_without_a_default_is_counted(found, configure):
    cache = configure(f"{__name__}.Ready")
    cache.set("a", 1)
    assert (cache.get("a"), cache.get("x")) == (1, None)
    assert found.asked("django.default") == (1, 1)


def test_a_cache_that_was_there_before_counts(configure):
    from tests.memory.found.conftest import Found

    cache = configure("locmem.LocMemCache")
    cache.get("x")
    found = Found()
    with found.undo:
        cache.get("x")
        assert found.asked("django.default") == (0, 1)


def test_a_cache_of_no_settings_is_nobodys(found, configure):
    configure("locmem.LocMemCache").get("x")
    other = locmem.LocMemCache("other", {})
    other.set("a", 1)
    assert (other.get("a"), other.get_or_set("x", 1), other.get_many(["a"])) == (1, 1, {"a": 1})
    assert found.asked("django.default") == (0, 1)


def test_the_undo_puts_everything_back(found, configure):
    cache = configure("locmem.LocMemCache")
    assert [kind for kind in KINDS if dict(vars(kind)) == PLAIN[kind]] == []
    found.undo.close()
    assert [kind for kind in KINDS if dict(vars(kind)) != PLAIN[kind]] == []
    assert cache.get("x") is None
