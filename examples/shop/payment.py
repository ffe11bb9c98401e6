"""The company that takes the payments and carries the parcels: a server of its own, each answer takes a while.

``python -m examples.shop.payment`` prints its address as the first line. The time that an answer takes stands
for the network and for their machines: 40 ms, or ``SHOP_PAYMENT_LATENCY`` seconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CARRIERS: Final = ("post", "bike", "rail", "drone")
LATENCY: Final = float(os.environ.get("SHOP_PAYMENT_LATENCY") or 0.040)
WITH_PARENT: Final = "--with-parent"

api = FastAPI(title="payment")


class Charge(BaseModel):
    """A payment, in cents."""

    customer: int
    amount: int


@api.get("/quotes/{carrier}")
async def quote(carrier: str, items: int) -> dict[str, str | int]:
    """What ``carrier`` would take, in cents."""
    await asyncio.sleep(LATENCY)
    return {"carrier": carrier, "price": 250 + 40 * items + 90 * CARRIERS.index(carrier)}


@api.post("/charges")
async def charge(body: Charge) -> dict[str, str | int]:
    """Take a payment."""
    await asyncio.sleep(LATENCY)
    return {"status": "paid", "amount": body.amount}


@api.post("/shipments/{order}")
async def ship(order: int) -> dict[str, str | int]:
    """Fetch a parcel."""
    await asyncio.sleep(LATENCY)
    return {"status": "shipped", "order": order}


class Provider:
    """The server as a child process. It ends with its parent, whatever happens to that."""

    def __init__(self, environ: Mapping[str, str], command: Sequence[str] = (sys.executable,)) -> None:
        self.process = subprocess.Popen(
            [*command, "-m", __name__ if __name__ != "__main__" else "examples.shop.payment", WITH_PARENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environ), text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the payment server did not start: status {self.process.wait()}")

    def stop(self, timeout: float = 10.0) -> int:
        """End it; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _end_with_parent() -> None:
    sys.stdin.read()  # the pipe's end: the parent closed it, or is no more
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until SIGTERM."""
    if WITH_PARENT in sys.argv[1:]:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", access_log=False))
    with socket.create_server(("127.0.0.1", int(os.environ.get("SHOP_PAYMENT_PORT") or 0))) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
