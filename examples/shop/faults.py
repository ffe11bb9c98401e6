"""The switches that make the shop slow: ``SHOP_SLOW=n_plus_one,cpu``. Read once, at import; all off by default."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Faults:
    """Ways to be slow. Each is a mistake that real programs make."""

    n_plus_one: bool = False  # GET /orders loads items, products and customers row by row
    serial_io: bool = False  # POST /orders asks the carriers one after the other
    slow_query: bool = False  # the reviews have no index on the author
    cpu: bool = False  # related products are found by comparing texts in Python
    gc: bool = False  # a large heap, and gc.collect() after showing an order
    lock: bool = False  # payments and shipments hold one lock while they talk to the provider
    loop_block: bool = False  # POST /orders sleeps on the event loop
    cache_off: bool = False  # products are read from the database each time
    leak: bool = False  # every product page ever shown is kept
    pool: bool = False  # one thread for all checkouts, and for their receipts


def parse(text: str) -> Faults:
    """The switches named in ``text``, separated by commas. Raises ``ValueError`` for an unknown one."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    known = {field.name for field in fields(Faults)}
    if names - known:
        raise ValueError(
            f"SHOP_SLOW: {', '.join(sorted(names - known))} is unknown; it must be among {', '.join(sorted(known))}"
        )
    return Faults(**dict.fromkeys(names, True))


SLOW = parse(os.environ.get("SHOP_SLOW", ""))
