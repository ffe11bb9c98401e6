"""What the app asks Redis for, by redis-py: ``GET``, ``GETEX`` and ``MGET``; a reply that is nil is a miss.

Counted where replies are parsed, so that pipelines, transactions, decoding, scripts and retries make no difference,
and by connection pool, because the pool knows the server and whose it is. A pool that a library makes (a cache of
Django's, Celery's broker) is the library's, and is left out, and so is one from before.
"""

from __future__ import annotations

import functools
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import put
from otel_perf.memory.found.shared import Counted, folder, maker, named, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack


def _one(watched: Counted, reply: Any) -> None:
    if reply is None:
        watched.misses += 1
    else:
        watched.hits += 1


def _many(watched: Counted, reply: Any) -> None:
    if isinstance(reply, list):
        missed = sum(value is None for value in reply)
        watched.misses += missed
        watched.hits += len(reply) - missed


COUNTS: Final[dict[Any, Callable[[Counted, Any], None]]] = {
    spelt: count
    for command, count in (("GET", _one), ("GETEX", _one), ("MGET", _many))
    for name in (command, command.lower())
    for spelt in (name, name.encode())
}


class RedisCaches:
    """The servers that the app has connections to, by ``redis.host:port/database``.

    Of a cluster the nodes by the synchronous client, the first of them by the asynchronous one, and no transactions by
    the synchronous one. A command costs 0.2 µs more, one that reads 0.5 µs (0.3 and 0.6 asynchronously). No lock, from
    any thread; nothing is kept of keys and values.
    """

    def __init__(self) -> None:
        self._pools: dict[int, Counted] = {}  # by id() of a pool, or of an asynchronous cluster
        self._servers: dict[str, Counted] = {}
        self._folder = ""

    def read(self) -> Iterable[Counted]:
        """Those that the app has, or had, connections to."""
        return list(self._servers.values())

    def install(self, library: Any, undo: ExitStack) -> None:
        """Wrap the library's classes until the undo. It imports all these modules itself."""
        self._folder = folder(library)
        for module, kind, method, wrapper in (
            ("redis.connection", "ConnectionPool", "__init__", self._pool),
            ("redis.client", "Redis", "parse_response", self._parsing),
            ("redis.client", "Pipeline", "_execute_transaction", self._transaction),
            ("redis.asyncio.connection", "ConnectionPool", "__init__", self._pool),
            ("redis.asyncio.client", "Redis", "parse_response", self._async_parsing),
            ("redis.asyncio.client", "Pipeline", "_execute_transaction", self._async_transaction),
            ("redis.asyncio.cluster", "RedisCluster", "__init__", self._cluster),
            ("redis.asyncio.cluster", "RedisCluster", "execute_command", self._async_command),
            ("redis.asyncio.cluster", "ClusterPipeline", "execute", self._async_pipeline),
        ):
            with suppress(Exception):  # what a version does not have is not counted
                found = getattr(sys.modules[module], kind)
                put(found, method, wrapper(vars(found)[method]), undo)

    def _pool(self, original: Any) -> Any:
        return self._making(original, _server)

    def _cluster(self, original: Any) -> Any:
        return self._making(original, lambda cluster: f"{next(iter(cluster.nodes_manager.startup_nodes))}/0")

    def _making(self, original: Any, name: Callable[[Any], str]) -> Any:
        library = self._folder

        @functools.wraps(original)
        def made(pool: Any, *arguments: Any, **keywords: Any) -> None:
            original(pool, *arguments, **keywords)
            with suppress(Exception):
                if maker(library) is not None:
                    remember(self._pools, pool, named(self._servers, "redis", name(pool)))

        return made

    def _count(self, pool: Any, command: Any, reply: Any) -> None:
        watched = self._pools.get(id(pool))
        if watched is not None:
            try:  # noqa: SIM105 - suppress costs 0.2 µs
                COUNTS[command](watched, reply)
            except Exception:
                pass  # a callback of the app's made something else of the reply

    def _count_all(self, pool: Any, commands: Iterable[tuple[Any, ...]], replies: Iterable[Any]) -> None:
        with suppress(Exception):
            for arguments, reply in zip(commands, replies, strict=False):
                if arguments[0] in COUNTS and not isinstance(reply, Exception):
                    self._count(pool, arguments[0], reply)

    # A client, a pipeline and a node of a cluster have the pool that they were given or made. What is called here is
    # called by the library alone, and in this way since its version 4.

    def _parsing(self, original: Any) -> Any:
        @functools.wraps(original)
        def parse_response(client: Any, connection: Any, command_name: Any, **options: Any) -> Any:
            reply = original(client, connection, command_name, **options)
            if command_name in COUNTS:
                self._count(getattr(client, "connection_pool", None), command_name, reply)
            return reply

        return parse_response

    def _async_parsing(self, original: Any) -> Any:
        @functools.wraps(original)
        async def parse_response(client: Any, connection: Any, command_name: Any, **options: Any) -> Any:
            reply = await original(client, connection, command_name, **options)
            if command_name in COUNTS:
                self._count(getattr(client, "connection_pool", None), command_name, reply)
            return reply

        return parse_response

    # Within a transaction a command's own reply is "queued"; the values are in that of EXEC.

    def _transaction(self, original: Any) -> Any:
        @functools.wraps(original)
        def execute(pipeline: Any, connection: Any, commands: Any, *arguments: Any, **keywords: Any) -> Any:
            replies = original(pipeline, connection, commands, *arguments, **keywords)
            self._count_all(getattr(pipeline, "connection_pool", None), _first(commands), replies)
            return replies

        return execute

    def _async_transaction(self, original: Any) -> Any:
        @functools.wraps(original)
        async def execute(pipeline: Any, connection: Any, commands: Any, *arguments: Any, **keywords: Any) -> Any:
            replies = await original(pipeline, connection, commands, *arguments, **keywords)
            self._count_all(getattr(pipeline, "connection_pool", None), _first(commands), replies)
            return replies

        return execute

    # An asynchronous cluster's nodes have no pool, and take no weak reference.

    def _async_command(self, original: Any) -> Any:
        @functools.wraps(original)
        async def execute_command(cluster: Any, *arguments: Any, **keywords: Any) -> Any:
            reply = await original(cluster, *arguments, **keywords)
            if arguments and arguments[0] in COUNTS:
                self._count(cluster, arguments[0], reply)
            return reply

        return execute_command

    def _async_pipeline(self, original: Any) -> Any:
        @functools.wraps(original)
        async def execute(pipeline: Any, *arguments: Any, **keywords: Any) -> Any:
            cluster, commands = None, []
            with suppress(Exception):
                cluster = pipeline.cluster_client
                commands = [command.args for command in pipeline._execution_strategy._command_queue]
            replies = await original(pipeline, *arguments, **keywords)
            self._count_all(cluster, commands, replies)
            return replies

        return execute


def _server(pool: Any) -> str:
    known = pool.connection_kwargs
    place = getattr(getattr(pool, "proxy", None), "service_name", None) or known.get("path")
    if place is None:
        place = f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    return f"{place}/{known.get('db') or 0}"


def _first(commands: Any) -> list[Any]:
    return [arguments for arguments, _ in commands]
