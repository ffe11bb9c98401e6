"""What a service stored for an endpoint that nobody sends to any more is sent to the one it has now: it was mended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from otel_perf.store.lease import Lease
from otel_perf.store.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_perf.store.committer import Owner

UNNAMED: Final = "unknown_service"  # how OpenTelemetry calls what has no name


def take_over(folder: Path, owner: Owner, with_outbox: Callable[[Callable[[Outbox], Any]], Any]) -> None:
    """Give ``owner`` what its service left for others; what a living process sends for stays with that process.

    Who has no name of its own may be anybody, and takes over nothing; nor is what was meant for a named endpoint sent
    to a receiver that was found on localhost.
    """
    if not owner.destination or owner.service.startswith(UNNAMED):
        return
    for old in with_outbox(lambda outbox: outbox.other_destinations(owner.service, owner.destination)):
        lease = Lease(folder, old)
        if lease.take():
            try:
                with_outbox(partial(Outbox.adopt, service=owner.service, old=old, new=owner.destination))
            finally:
                lease.release()
