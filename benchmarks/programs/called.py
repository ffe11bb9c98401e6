"""The functions that benchmarks/calls.py has decorated; a module of its own, for who rewrites modules at import."""


def trivial(number: int) -> int:
    """As good as nothing, so that what is measured is the decorator."""
    return number + 1


async def awaited(number: int) -> int:
    """The same as a coroutine, which never waits."""
    return number + 1
