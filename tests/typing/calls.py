"""Checked by mypy: what ``monitored`` decorates keeps its types."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import otel_perf as perf


@perf.monitored
def plain(a: int, *, b: str = "") -> list[int]:
    return [a]


@perf.monitored(name="x", span="always", attributes={"a": 1})
async def later(a: int) -> str:
    return ""


@perf.monitored
def steps(a: int) -> Iterator[int]:
    yield a


@perf.monitored
async def asteps(a: int) -> AsyncIterator[int]:
    yield a


@perf.monitored
class Repo:
    def load(self, a: int) -> bytes:
        return b""

    @perf.monitored
    @staticmethod
    def static(a: int) -> float:
        return 0.0


assert_type(plain(1, b="x"), list[int])
assert_type(Repo().load(1), bytes)
plain("x")  # type: ignore[arg-type]


async def main() -> None:
    assert_type(await later(1), str)
    async for item in asteps(1):
        assert_type(item, int)
    with perf.monitored("phase") as span:
        span.set_attribute("a", 1)
