"""A million identical lines and a hundred thousand different ones."""

import time

import pytest

from tests.logs.test_flood import flood


@pytest.mark.soak
def test_a_million_lines_add_up_in_flat_memory(home):
    """In each of two processes, at once."""
    began = time.monotonic()
    told = flood(home, 1_000_000, 100_000, 4, timeout=600)
    print(f"{time.monotonic() - began:.0f} s")
    for process in told:
        sizes = process["sizes"]
        print(process["who"], process["made"], process["out"], [round(size / 1e6, 1) for size in sizes], "MB")
        assert max(sizes[4:]) - sizes[4] < 10_000_000
