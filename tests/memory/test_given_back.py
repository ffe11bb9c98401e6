"""What a structure had is given back when it is gone: memray watches every allocation."""

import gc

import pytest

from tests.memory.structures import all_of_them


@pytest.mark.limit_leaks("60 KB")
@pytest.mark.parametrize("name", all_of_them())
def test_a_structure_that_is_gone_leaves_nothing(name):
    work = all_of_them()[name]
    for number in range(3_000):
        work(number)
    del work
    gc.collect()
