"""Reads of the app's from a real Redis server, by every kind of client that redis-py has."""

import asyncio
import gc
import sysconfig

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from otel_perf.memory.cache_metrics import EVICTIONS, HITS, LIMIT, SIZE
from otel_perf.memory.found import shared
from tests import redis_server as servers
from tests.e2e.support import free_port, wait_for

CLASSES = (
    redis.connection.ConnectionPool, redis.client.Redis, redis.client.Pipeline,
    redis.asyncio.connection.ConnectionPool, redis.asyncio.client.Redis, redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.RedisCluster, redis.asyncio.cluster.ClusterPipeline,
)  # fmt: skip
PLAIN = {kind: dict(vars(kind)) for kind in CLASSES}


@pytest.fixture
def name(redis_server):
    return f"redis.localhost:{redis_server}/0"


@pytest.fixture
def client(found, redis_server):
    with redis.Redis(port=redis_server) as client:
        client.flushall()
        client.mset({"a": "1", "b": "2"})
        client.rpush("list", "x")
        yield client


def test_a_nil_reply_is_a_miss_and_nothing_else_is_known(found, client, name):
    assert (client.get("a"), client.get("x"), client.get("b")) == (b"1", None, b"2")
    assert found.asked(name) == (2, 1)
    assert client.mget("a", "x", "y") == [b"1", None, None]
    assert client.mget([]) == []
    assert found.asked(name) == (3, 3)
    assert client.getex("a", ex=60) == b"1"
    assert client.execute_command("get", "x") is None
    assert found.asked(name) == (4, 4)
    assert not [metric for metric in (SIZE, LIMIT, EVICTIONS) if name in found(metric)]


def test_what_reads_no_value_is_not_counted(found, client, name):
    client.set("new", "1", get=True), client.exists("x"), client.incr("n"), client.lrange("list", 0, -1), client.ping()
    assert found.asked(name) == (0, 0)


def test_an_error_is_no_miss(found, client, name):
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.get("list")
    with client.pipeline() as pipeline, pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        pipeline.get("a").get("list").execute()
    replies = client.pipeline().get("a").get("list").execute(raise_on_error=False)
    assert replies[0] == b"1"
    assert found.asked(name) == (1, 0)


@pytest.mark.parametrize("transaction", [True, False])
def test_each_read_of_a_pipeline_counts_once(found, client, name, transaction):
    with client.pipeline(transaction=transaction) as pipeline:
        pipeline.get("a").set("c", "3").get("x").mget("a", "b", "y")
        assert found.asked(name) == (0, 0)
        assert pipeline.execute() == [b"1", True, None, [b"1", b"2", None]]
    assert found.asked(name) == (3, 2)


def test_what_is_read_while_watching_counts(found, client, name):
    with client.pipeline() as pipeline:
        pipeline.watch("a")
        assert pipeline.get("a") == b"1"
        pipeline.multi()
        assert pipeline.set("a", "5").get("a").execute() == [True, b"5"]
    assert found.asked(name) == (2, 0)


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"single_connection_client": True}])
def test_options_make_no_difference(found, client, name, redis_server, options):
    with redis.Redis(port=redis_server, **options) as other:
        assert other.get("a") in {b"1", "1"}
        assert other.get("x") is None
        assert other.pipeline().get("a").get("x").execute()[1] is None
    assert found.asked(name) == (2, 2)


def test_what_redis_py_keeps_itself_is_a_hit(found, client, name, redis_server, monkeypatch):
    # It wants 7.4, Debian has 7.0, which tells of changes as well.
    monkeypatch.setattr(redis.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    with redis.Redis(port=redis_server, protocol=3, cache_config=CacheConfig()) as cached:
        assert [cached.get("a"), cached.get("a"), cached.get("a")] == [b"1"] * 3
        assert cached.get_cache().size == 1
    assert found.asked(name) == (3, 0)


def test_a_callback_of_the_apps_may_answer_anything(found, client, name):
    client.set_response_callback("MGET", lambda reply, **_: len(reply))
    assert client.mget("a", "x") == 2
    assert found.asked(name) == (0, 0)


def test_pools_are_named_by_server_and_database_and_summed_up(found, client, redis_server, tmp_path):
    name = f"redis.127.0.0.1:{redis_server}/3"
    pool = redis.BlockingConnectionPool.from_url(f"redis://127.0.0.1:{redis_server}/3")
    for _ in range(2):
        redis.Redis(connection_pool=pool).get("x")
    redis.Redis(host="127.0.0.1", port=redis_server, db=3).get("x")
    assert found.asked(name) == (0, 3)
    pool.disconnect()
    del pool
    gc.collect()
    assert found.asked(name) == (0, 3)  # what is gone stays counted
    with (
        servers.running(tmp_path, "--unixsocket", str(tmp_path / "s")),
        redis.Redis(unix_socket_path=str(tmp_path / "s")) as local,
    ):
        local.get("x")
    assert found.asked(f"redis.{tmp_path / 's'}/0") == (0, 1)


def test_a_sentinels_service_gives_the_name(found, redis_server):
    sentinel = redis.Sentinel([("127.0.0.1", redis_server)])
    sentinel.master_for("orders", db=2)
    assert found.asked("redis.orders/2") == (0, 0)


def test_a_librarys_client_is_not_the_apps(found, redis_server):
    source = f"import redis\nclient = redis.Redis(port={redis_server}, db=7)\nclient.get('x')\n"
    namespace = {}
    exec(compile(source, f"{sysconfig.get_path('purelib')}/redis_om/client.py", "exec"), namespace)
    assert namespace["client"].get("x") is None
    assert found.asked(f"redis.localhost:{redis_server}/7") == (None, None)


def test_names_have_a_limit(found, monkeypatch):
    monkeypatch.setattr(shared, "NAMES", 2)
    clients = [redis.Redis(host=f"host{number}") for number in range(4)]
    assert {name for name in found(HITS) if name.startswith("redis.")} == {
        "redis.host0:6379/0", "redis.host1:6379/0", "redis.other",
    }  # fmt: skip
    assert len(clients) == 4


def test_the_asynchronous_client_counts_likewise(found, client, name, redis_server):
    async def main():
        async with redis.asyncio.Redis(port=redis_server) as mine:
            assert await mine.get("a") == b"1"
            assert await asyncio.gather(*(mine.get(key) for key in "abxy")) == [b"1", b"2", None, None]
            assert await mine.mget("a", "x") == [b"1", None]
            with pytest.raises(redis.ResponseError):
                await mine.get("list")
            for transaction in (True, False):
                async with mine.pipeline(transaction=transaction) as pipeline:
                    assert await pipeline.get("a").get("x").set("c", "1").execute() == [b"1", None, True]

    asyncio.run(main())
    assert found.asked(name) == (6, 5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The port of a cluster of one."""
    folder = tmp_path_factory.mktemp("cluster")
    bus = str(free_port())
    with (
        servers.running(folder, "--cluster-enabled", "yes", "--cluster-port", bus) as port,
        redis.Redis(port=port) as node,
    ):
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: node.cluster("info")["cluster_state"] == "ok", what="a cluster that is whole")
        node.mset({"{t}a": "1", "{t}b": "2"})
        yield port


def test_a_cluster_counts_by_node(found, cluster):
    with redis.cluster.RedisCluster(host="127.0.0.1", port=cluster) as mine:
        assert (mine.get("{t}a"), mine.get("x")) == (b"1", None)
        assert mine.mget_nonatomic("{t}a", "{t}b", "y") == [b"1", b"2", None]
        assert mine.pipeline().get("{t}a").get("x").execute() == [b"1", None]
    assert found.asked(f"redis.127.0.0.1:{cluster}/0") == (4, 3)


def test_an_asynchronous_cluster_counts(found, cluster):
    async def main():
        async with redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=cluster) as mine:
            assert (await mine.get("{t}a"), await mine.get("x")) == (b"1", None)
            assert await mine.mget("{t}a", "{t}b", "{t}y") == [b"1", b"2", None]
            for transaction in (True, False):
                async with mine.pipeline(transaction=transaction) as pipeline:
                    assert await pipeline.get("{t}a").get("{t}x").execute() == [b"1", None]

    asyncio.run(main())
    assert found.asked(f"redis.127.0.0.1:{cluster}/0") == (5, 4)


def test_the_undo_puts_everything_back(found, client, name):
    client.get("a")
    assert [kind for kind in CLASSES if dict(vars(kind)) == PLAIN[kind]] == []
    found.undo.close()
    assert [kind for kind in CLASSES if dict(vars(kind)) != PLAIN[kind]] == []
    assert client.get("a") == b"1"


def test_a_lost_connection_is_no_miss(found, tmp_path):
    with servers.running(tmp_path) as port, redis.Redis(port=port, retry=Retry(NoBackoff(), 1)) as mine:
        mine.get("x")
        mine.shutdown(nosave=True)
        with pytest.raises(redis.ConnectionError):
            mine.get("x")
    assert found.asked(f"redis.localhost:{port}/0") == (0, 1)
