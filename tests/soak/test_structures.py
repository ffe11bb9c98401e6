"""Ten million operations on caches, collections and singletons leave nothing behind."""

import gc
import statistics

import pytest

from tests.memory.structures import all_of_them
from tests.soak.test_calls_memory import resident

OPERATIONS, PARTS = 10_000_000, 20


@pytest.mark.soak
def test_ten_million_operations_do_not_grow_the_process():
    works = list(all_of_them().values())
    each = OPERATIONS // PARTS // len(works)
    sizes, number = [], 0
    for _ in range(PARTS + 1):
        for work in works:
            for index in range(number, number + each):
                work(index)
        number += each
        gc.collect()
        sizes.append(resident())
    del sizes[0]  # until all are full
    print(f"{[round(size / 1e6, 1) for size in sizes]} MB")
    slopes = [
        (later - earlier) / (at - before)
        for before, earlier in enumerate(sizes)
        for at, later in enumerate(sizes)
        if at > before
    ]
    assert abs(statistics.median(slopes)) * PARTS < 500_000  # Theil–Sen: half a byte in ten operations
