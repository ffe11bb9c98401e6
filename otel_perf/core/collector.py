"""What has to be done before objects are frozen: ``gc.get_objects`` does not show those that are.

Who looks for objects says so here, whether or not somebody freezes them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

lookers: list[Callable[[], object]] = []
"""Called each time before a freeze, perhaps within a collection: to be quick, and to take no lock."""


def look() -> None:
    """Let all of them look."""
    for looker in tuple(lookers):
        with suppress(Exception):
            looker()
