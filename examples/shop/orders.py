"""Orders: placing, reading."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from examples.shop.catalogue import find
from examples.shop.faults import SLOW
from examples.shop.logs import logger
from examples.shop.models import Customer, Order, OrderItem, Product, Session
from examples.shop.payment import CARRIERS
from examples.shop.worker import provider_lock

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.orm import Session as SqlSession

routes = APIRouter()
_log = logger("shop.orders")

PAGE: Final = 120
# "Keep all of it in memory": 120,000 objects that every full collection has to visit.
_heap: Final = [{"row": number, "cells": [number]} for number in range(60_000)] if SLOW.gc else []


class NewItem(BaseModel):
    """One line of a new order."""

    product: int
    quantity: Annotated[int, Field(ge=1, le=100)] = 1


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: int
    items: Annotated[list[NewItem], Field(min_length=1, max_length=50)]


@routes.get("/orders")
def newest(limit: Annotated[int, Field(ge=1, le=500)] = PAGE) -> list[dict[str, Any]]:
    """The newest orders."""
    with Session() as session:
        if SLOW.n_plus_one:
            query = select(Order).order_by(Order.id.desc()).limit(limit)
            found = [_plain(order) for order in session.scalars(query)]
        else:
            found = _at_once(session, limit)
    _log.info("%d orders listed", len(found))
    return found


def _at_once(session: SqlSession, limit: int) -> list[dict[str, Any]]:
    """Two queries for rows: as objects that know each other they would take five times as long."""
    orders = select(Order.id, Customer.name, Order.status, Order.total).join(Order.customer)
    rows = session.execute(orders.order_by(Order.id.desc()).limit(limit)).all()
    items: dict[int, list[dict[str, Any]]] = {number: [] for number, *_ in rows}
    bought = select(OrderItem.order_id, Product.name, OrderItem.quantity).join(OrderItem.product)
    for number, product, quantity in session.execute(
        bought.where(OrderItem.order_id.in_(items)).order_by(OrderItem.id)
    ):
        items[number].append({"product": product, "quantity": quantity})
    return [
        {"id": number, "customer": customer, "status": status, "total": total, "items": items[number]}
        for number, customer, status, total in rows
    ]


@routes.get("/orders/{number}")
def show(number: int) -> dict[str, Any]:
    """One order."""
    with Session() as session:
        order = session.get(Order, number)
        if order is None:
            raise HTTPException(404, f"no order {number}")
        shown = _plain(order)
    if SLOW.gc:
        gc.collect()  # "somebody said that it helps"
    _log.info("order %d shown", number)
    return shown


@routes.get("/customers/{number}/average")
def average(number: int) -> dict[str, float]:
    """What a customer spends on an order. A customer without orders is an error that nobody thought of."""
    with Session() as session:
        query = select(func.count(), func.coalesce(func.sum(Order.total), 0)).where(Order.customer_id == number)
        count, total = session.execute(query).one()
    _log.info("customer %d has %d orders", number, count)
    return {"average": total / count}


@routes.post("/orders", status_code=201)
async def place(new: NewOrder, request: Request) -> dict[str, Any]:
    """Place an order: the cheapest carrier, the payment, the database, then the worker."""
    carrier, price = await _cheapest(request.app.state.quotes, len(new.items))
    _log.info("customer %d sends with %s for %d", new.customer, carrier, price)
    if SLOW.loop_block:
        time.sleep(0.12)  # noqa: ASYNC251  "give the fraud check a moment"
    order = await asyncio.to_thread(_check_out, new, carrier, price, request.app.state.provider)
    if SLOW.pool:
        request.app.state.checkouts.submit(_send_receipt, order)  # "the thread is there already"
    if not request.app.state.fulfilment.place(order):
        _log.warning("order %d waits: too many orders are being fulfilled", order)
    return {"id": order, "carrier": carrier}


async def _cheapest(quotes: httpx.AsyncClient, items: int) -> tuple[str, int]:
    async def ask(carrier: str) -> tuple[int, str]:
        answer = (await quotes.get(f"/quotes/{carrier}", params={"items": items})).raise_for_status()
        return answer.json()["price"], carrier

    if SLOW.serial_io:
        answers = [await ask(carrier) for carrier in CARRIERS]
    else:
        answers = await asyncio.gather(*(ask(carrier) for carrier in CARRIERS))
    price, carrier = min(answers)
    return carrier, price


def _check_out(new: NewOrder, carrier: str, shipping: int, provider: httpx.Client) -> int:
    """Charge the customer and store the order; its number. Runs in a thread."""
    with Session() as session:
        if session.get(Customer, new.customer) is None:
            raise HTTPException(404, f"no customer {new.customer}")
    total = shipping + sum(find(item.product)["price"] * item.quantity for item in new.items)
    with provider_lock():
        charge = {"customer": new.customer, "amount": total}
        status = provider.post("/charges", json=charge).raise_for_status().json()["status"]
    order = Order(
        customer_id=new.customer, status=status, total=total, carrier=carrier,
        created=datetime.now(UTC).replace(tzinfo=None),
        items=[OrderItem(product_id=item.product, quantity=item.quantity) for item in new.items],
    )  # fmt: skip
    with Session.begin() as session:
        session.add(order)
    _log.info("order %d stored, %s %d", order.id, status, total)
    return order.id


def _send_receipt(order: int) -> None:
    time.sleep(0.25)  # for a mail server
    _log.info("receipt of order %d sent", order)


def _plain(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "customer": order.customer.name,
        "status": order.status,
        "total": order.total,
        "items": [{"product": item.product.name, "quantity": item.quantity} for item in order.items],
    }
