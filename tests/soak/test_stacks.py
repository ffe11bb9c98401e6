"""Stacks of a process in which everything moves are copied for minutes, and it is still there."""

import pytest

from tests.bottlenecks.test_frames import moving

pytestmark = pytest.mark.soak


def test_copying_harms_nobody_for_minutes():
    assert moving(180) > 10_000
