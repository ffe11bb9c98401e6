"""What a thread or a task is doing at this moment, told from its stack, which nobody has to pay for but who looks.

A thread may be anywhere at that moment, so a stack says where the time goes only when several of them agree.
"""

from __future__ import annotations

import dis
import queue
import selectors
import sys
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.place import DEPTH, inside_loop, place_of
from otel_perf.core.owner import APP, MACHINE, owner
from otel_perf.core.records import record

if TYPE_CHECKING:
    from types import CodeType

    from otel_perf.bottlenecks.place import Place

RUNNING, WAITING, LOCK, POOL = "running", "waiting", "lock", "pool"

# Where a library's pool makes its caller wait: end of the file's name, function, what it is called.
_POOLS: Final = (
    ("sqlalchemy/util/queue.py", "get", "SQLAlchemy's connection pool"),
    ("sqlalchemy/pool/impl.py", "_do_get", "SQLAlchemy's connection pool"),
    ("psycopg_pool/pool.py", "getconn", "psycopg's connection pool"),
    ("psycopg_pool/pool_async.py", "getconn", "psycopg's connection pool"),
    ("asyncpg/pool.py", "_acquire", "asyncpg's connection pool"),
    ("urllib3/connectionpool.py", "_get_conn", "urllib3's connection pool"),
    ("httpcore/_sync/connection_pool.py", "wait_for_connection", "httpx's connection pool"),
    ("httpcore/_async/connection_pool.py", "wait_for_connection", "httpx's connection pool"),
    ("redis/connection.py", "get_connection", "redis-py's connection pool"),
    ("pymongo/pool.py", "_get_conn", "pymongo's connection pool"),
)
_POOL_FILES: Final = {path.rpartition("/")[2] for path, _, _ in _POOLS}
_WAITING: Final = frozenset(module.__file__ for module in (threading, selectors, queue))
_ASYNC_LOCKS: Final = {"Lock.acquire": "asyncio.Lock", "Semaphore.acquire": "asyncio.Semaphore"}
_LOCKING: Final = {"Semaphore.acquire": "threading.Semaphore"}
_ACQUIRING: Final = frozenset({"acquire", "acquire_lock", "__enter__"})


@record
class Stack:
    """A stack at one moment: what its innermost frame does, and the app's line."""

    doing: str
    what: str  # the lock or pool that is waited for
    place: Place | None
    code: CodeType
    instruction: int  # of the innermost frame: the same one again means that it has not moved
    importing: bool = False  # a module
    in_library: bool = False  # called from the app's line, or from none

    @property
    def position(self) -> tuple[int, int]:
        """Tells whether two stacks are at the same instruction."""
        return id(self.code), self.instruction


@record
class Sample:
    """A stack seen for a trace."""

    at: int  # ns
    span_id: int  # of the innermost span that was open there
    thread: int
    stack: Stack


def of_thread(copied: frames.Stack, *, of_loop: bool = False) -> Stack:
    """Of a thread, from a copy of its frames; 5–20 µs. ``of_loop``: only what an event loop is running."""
    code, _, instruction = copied[0]
    stack = [(code, line) for code, line, _ in copied]
    if of_loop:
        stack = list(inside_loop(stack))
    doing, what = _doing(code, instruction, stack)
    importing = any(code.co_filename.startswith("<frozen importlib") for code, _ in stack)
    inner = next((whose for code, _ in stack if (whose := owner(code.co_filename)) != MACHINE), MACHINE)
    return Stack(doing, what, place_of(stack), code, instruction, importing, inner != APP)


def of_task(task: Any) -> Stack | None:
    """The stack of a task that is waiting; ``None`` if it is running, has ended, or is not made of coroutines."""
    copied = frames.awaited(task.get_coro(), DEPTH)
    if not copied:
        return None
    code, _, instruction = copied[-1]
    stack = [(code, line) for code, line, _ in reversed(copied)]
    locks = getattr(sys.modules.get("asyncio.locks"), "__file__", "")
    doing, what = WAITING, ""
    if code.co_filename == locks and code.co_qualname in _ASYNC_LOCKS:
        doing, what = LOCK, _ASYNC_LOCKS[code.co_qualname]
    pool = _pool(stack)
    if pool:
        doing, what = POOL, pool
    return Stack(doing, what, place_of(stack), code, instruction)


def _doing(code: CodeType, instruction: int, stack: list[tuple[CodeType, int]]) -> tuple[str, str]:
    if code.co_filename in _WAITING:
        pool = _pool(stack)
        if pool:
            return POOL, pool
        for outer, _ in stack[:3]:
            if outer.co_qualname in _LOCKING and outer.co_filename == threading.__file__:
                return LOCK, _LOCKING[outer.co_qualname]
        if code.co_qualname in {"Condition.__enter__", "Condition.acquire"}:
            return LOCK, "threading.Condition"
        return WAITING, ""
    if _takes_lock(code, instruction):
        return LOCK, "a lock"
    return RUNNING, ""


def _pool(stack: list[tuple[CodeType, int]]) -> str:
    for code, _ in stack[:8]:
        if code.co_filename.rpartition("/")[2] in _POOL_FILES:
            for path, function, name in _POOLS:
                if code.co_filename.endswith(path) and code.co_name == function:
                    return name
    return ""


def _takes_lock(code: CodeType, instruction: int) -> bool:
    """Whether the instruction enters a ``with`` or calls an ``acquire``.

    A lock of Python's own is written in C and has no frame, so that a thread that waits for it stands at that
    instruction of its caller. Whatever else is written in Python and entered there would be the innermost frame.
    """
    return calls(code, instruction, _ACQUIRING, or_enters=True)


@lru_cache(maxsize=512)
def calls(code: CodeType, instruction: int, names: frozenset[str], *, or_enters: bool = False) -> bool:
    """Whether the instruction is a call of a function or method of one of ``names``. About 1 ms, once."""
    loads, last = [], None
    for found in dis.get_instructions(code):
        if found.offset > instruction:  # while a function of Python runs, it is at the caches behind its call
            break
        if found.opname.startswith("LOAD_") and found.opname != "LOAD_CONST":  # 3.13 loads the names of keywords last
            loads.append(found)
        last = found
    if last is None or last.opname == "BEFORE_WITH":
        return last is not None and or_enters
    # In 3.11 a C function is called by the instruction before CALL.
    return last.opname.startswith(("CALL", "PRECALL")) and _called(last, loads) in names


def _called(call: dis.Instruction, loads: list[dis.Instruction]) -> str:
    """The name that is called there: of what begins where the call begins, the longest; else what was loaded last."""
    where = call.positions
    named = [load for load in loads if load.opname.removeprefix("LOAD_") in {"METHOD", "ATTR", "GLOBAL", "NAME"}]
    if where is not None and where.end_col_offset is not None:
        named = sorted(
            (load for load in loads if load.positions is not None and load.positions[::2] == where[::2]),
            key=_end,
        )
    return str(named[-1].argval) if named else ""


def _end(load: dis.Instruction) -> tuple[int, int]:
    where = load.positions
    return (0, 0) if where is None else (where.end_lineno or 0, where.end_col_offset or 0)
