"""Products: reading, comparing, reviews."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any, Final

from fastapi import APIRouter, HTTPException
from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from examples.shop.faults import SLOW
from examples.shop.logs import logger
from examples.shop.models import Product, Review, Session

routes = APIRouter()
_log = logger("shop.catalogue")
_shown: Final[list[str]] = []  # only grows, with SHOP_SLOW=leak


@lru_cache(maxsize=1_000)
def _cached(number: int) -> dict[str, Any] | None:
    with Session() as session:
        product = session.get(Product, number)
        return None if product is None else _plain(product)


def find(number: int) -> dict[str, Any]:
    """Product ``number``; 404 if there is none. Callers do not change it: it is shared."""
    product = _cached.__wrapped__(number) if SLOW.cache_off else _cached(number)
    if product is None:
        raise HTTPException(404, f"no product {number}")
    return product


@routes.get("/products")
def search(category: str = "books", limit: int = 20) -> list[dict[str, Any]]:
    """Products of one category."""
    with Session() as session:
        query = select(Product).where(Product.category == category).order_by(Product.id).limit(min(limit, 100))
        found = [_plain(product) for product in session.scalars(query)]
    _log.info("%d products in %s", len(found), category)
    return found


@routes.get("/products/{number}")
def show(number: int) -> dict[str, Any]:
    """One product."""
    product = find(number)
    if SLOW.leak:
        _shown.append(repr(product) * 100)  # about 40 kB: "for the recently viewed"
    _log.info("product %d shown", number)
    return product


@routes.get("/products/{number}/related")
def related(number: int, limit: int = 5) -> list[dict[str, Any]]:
    """Products like this one."""
    product = find(number)
    with Session() as session:
        others = select(Product).where(Product.id != number)
        if SLOW.cpu:
            found = _most_similar(product["description"], list(session.scalars(others)), limit)
        else:
            same = others.where(Product.category == product["category"])
            found = list(session.scalars(same.order_by(func.abs(Product.price - product["price"])).limit(limit)))
    _log.info("%d products are like %d", len(found), number)
    return [_plain(other) for other in found]


def _most_similar(text: str, others: list[Product], limit: int) -> list[Product]:
    """Compare the texts letter by letter, here instead of in the database."""
    matcher = difflib.SequenceMatcher(autojunk=False)

    def similarity(other: Product) -> float:
        """Of both to each other: it depends on which comes first."""
        matcher.set_seqs(text, other.description)
        there = matcher.ratio()
        matcher.set_seqs(other.description, text)
        return there + matcher.ratio()

    return sorted(others, key=similarity, reverse=True)[:limit]


@routes.get("/products/{number}/reviews")
def reviews(number: int, limit: int = 20) -> list[dict[str, Any]]:
    """The reviews of a product, those of the busiest authors first. Needs an index on the author."""
    find(number)
    other = aliased(Review)
    written = select(func.count()).where(other.author == Review.author).correlate(Review).scalar_subquery()
    query = select(Review, written).where(Review.product_id == number).order_by(written.desc()).limit(limit)
    with Session() as session:
        found = [
            {"author": review.author, "stars": review.stars, "reviews": count}
            for review, count in session.execute(query)
        ]
    _log.info("%d reviews of product %d", len(found), number)
    return found


def _plain(product: Product) -> dict[str, Any]:
    return {
        "id": product.id,
        "name": product.name,
        "category": product.category,
        "description": product.description,
        "price": product.price,
    }
