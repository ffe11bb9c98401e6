"""Tables, the SQLite file and its first content."""

from __future__ import annotations

import os
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine, ForeignKey, Index, create_engine, event, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from examples.shop.faults import SLOW

if TYPE_CHECKING:
    from sqlite3 import Connection

PRODUCTS: Final = 240
CUSTOMERS: Final = 80
ORDERS: Final = 400
REVIEWS: Final = 60_000
CATEGORIES: Final = ("books", "garden", "kitchen", "music", "office", "outdoor", "tools", "toys")
# fmt: off
_WORDS: Final = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "iron", "jade", "kelp", "larch", "maple",
    "north", "oak", "pine",
)
# fmt: on


class Base(DeclarativeBase):
    """All tables."""


class Customer(Base):
    """Somebody who buys. The last one never has."""

    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Product(Base):
    """Something to buy. Prices are in cents."""

    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    category: Mapped[str] = mapped_column(index=True)
    description: Mapped[str]
    price: Mapped[int]


class Order(Base):
    """What a customer bought at once."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"), index=True)
    status: Mapped[str]
    total: Mapped[int]
    carrier: Mapped[str]
    created: Mapped[datetime]
    customer: Mapped[Customer] = relationship()
    items: Mapped[list[OrderItem]] = relationship(order_by="OrderItem.id")


class OrderItem(Base):
    """One line of an order."""

    __tablename__ = "order_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]
    product: Mapped[Product] = relationship()


class Review(Base):
    """What somebody thinks of a product."""

    __tablename__ = "review"
    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    author: Mapped[str]
    stars: Mapped[int]


if not SLOW.slow_query:
    Index("review_author", Review.author)


def data_folder() -> Path:
    """``SHOP_DATA``, or a new temporary folder."""
    path = Path(os.environ.get("SHOP_DATA") or tempfile.mkdtemp(prefix="shop-"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def connect(folder: Path) -> Engine:
    """The shop's database in ``folder``, made and filled if it is not there."""
    engine = create_engine(f"sqlite:///{folder / 'shop.db'}", pool_size=16, max_overflow=32)
    event.listen(engine, "connect", _on_connect)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        if connection.exec_driver_sql("SELECT count(*) FROM product").scalar_one() == 0:
            for table, rows in _content().items():
                connection.execute(insert(table), rows)
    Session.configure(bind=engine)
    return engine


def _on_connect(connection: Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")


def _content() -> dict[type[Base], list[dict[str, object]]]:
    chance = random.Random(20_26)
    start = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    products: list[dict[str, object]] = [
        {
            "id": number,
            "name": f"{chance.choice(_WORDS).title()} {number}",
            "category": chance.choice(CATEGORIES),
            "description": " ".join(chance.choices(_WORDS, k=26)),
            "price": chance.randrange(300, 20_000),
        }
        for number in range(1, PRODUCTS + 1)
    ]
    orders: list[dict[str, object]] = []
    items: list[dict[str, object]] = []
    for number in range(1, ORDERS + 1):
        bought = chance.sample(products, k=chance.randrange(1, 5))
        items += [{"order_id": number, "product_id": product["id"], "quantity": 1} for product in bought]
        orders.append(
            {
                "id": number,
                "customer_id": chance.randrange(1, CUSTOMERS),
                "status": "shipped",
                "total": sum(int(str(product["price"])) for product in bought),
                "carrier": "post",
                "created": start + timedelta(hours=number),
            }
        )
    return {
        Customer: [{"id": number, "name": f"Customer {number}"} for number in range(1, CUSTOMERS + 1)],
        Product: products,
        Order: orders,
        OrderItem: items,
        Review: [
            {
                "product_id": chance.randrange(1, PRODUCTS + 1),
                "author": f"reader {chance.randrange(2_000)}",
                "stars": chance.randrange(1, 6),
            }
            for _ in range(REVIEWS)
        ],
    }


Session = sessionmaker(expire_on_commit=False)
