"""The shop's server: ``python -m examples.shop``, on ``SHOP_PORT`` (8000) of the loopback interface."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import uvicorn
from fastapi import FastAPI

from examples.shop import catalogue, logs, models, orders
from examples.shop.faults import SLOW
from examples.shop.payment import Provider
from examples.shop.worker import Fulfilment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, find or start the provider, start the worker; and the other way round at the end."""
    log = logs.logger("shop")
    given = os.environ.get("SHOP_PAYMENT_URL", "")
    provider = None if given else Provider(os.environ)
    url = given if provider is None else provider.url
    folder = models.data_folder()
    engine = models.connect(folder)
    checkouts = ThreadPoolExecutor(1 if SLOW.pool else 16, thread_name_prefix="checkout")
    app.state.checkouts = checkouts
    asyncio.get_running_loop().set_default_executor(checkouts)
    # The provider is on this machine: no proxy between.
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as quotes:
            app.state.provider, app.state.quotes = client, quotes
            app.state.fulfilment = Fulfilment(client)
            app.state.fulfilment.start()
            log.info("open: data in %s, provider at %s, %s", folder, url, SLOW)
            yield
            await asyncio.to_thread(app.state.fulfilment.stop)
    engine.dispose()
    if provider is not None:
        provider.stop()
    log.info("closed")


def create() -> FastAPI:
    """The application."""
    app = FastAPI(title="shop", lifespan=lifespan)
    app.add_middleware(logs.RequestIds)
    app.include_router(catalogue.routes)
    app.include_router(orders.routes)
    app.add_api_route("/health", health)
    return app


async def health() -> dict[str, str]:
    """Answer."""
    return {"status": "up"}


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logs.configure()
    uvicorn.run(create(), host="127.0.0.1", port=int(os.environ.get("SHOP_PORT") or 8000))
