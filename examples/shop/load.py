"""Customers: requests that arrive at random times (Poisson), whether or not the earlier ones were answered.

With ``--requests`` there is one customer only, whose next request follows the last one's answer: no request waits for
another, and whatever is slow then is slow by itself.

    python -m examples.shop.load --url http://127.0.0.1:8000 --rate 40 --seconds 15 --seed 7

A request's latency counts from the moment at which it should have been sent, so that a stalled server cannot
hide its stall by slowing the load down. Prints one line of JSON. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import secrets
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

MOST_SECONDS: Final = 3_600
MOST_RATE: Final = 2_000
MOST_REQUESTS: Final = 1_000_000
MOST_WAITING: Final = 2_000  # requests without an answer; more are not sent, and counted
TIMEOUT: Final = 30.0

# What customers do, and how often of a hundred times.
_MIX: Final = {"show": 46, "search": 12, "order": 14, "place": 14, "reviews": 5, "related": 5, "orders": 4}


@dataclass(slots=True)
class Result:
    """What came of it. Latencies are in seconds."""

    sent: int = 0
    not_sent: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # kinds of errors
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "sent": self.sent,
                "not_sent": self.not_sent,
                "failed": dict(self.failed),
                "answered": {str(status): count for status, count in sorted(self.statuses.items())},
                "p50_ms": self._percentile(0.50),
                "p99_ms": self._percentile(0.99),
            }
        )

    def _percentile(self, share: float) -> float | None:
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)


def is_loopback(url: str) -> bool:
    """Whether ``url`` is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def draw(chance: random.Random, errors: float) -> tuple[str, str, dict[str, Any] | None]:
    """A random request: method, path, body. A share ``errors`` of them meets the shop's known bug."""
    if chance.random() < errors:
        return "GET", "/customers/80/average", None
    action = chance.choices(list(_MIX), weights=list(_MIX.values()))[0]
    product = min(240, 1 + int(chance.expovariate(1 / 40)))  # some are looked at much more than others
    items = [{"product": chance.randrange(1, 241), "quantity": 1} for _ in range(chance.randrange(1, 5))]
    return {
        "show": ("GET", f"/products/{product}", None),
        "search": ("GET", f"/products?category={chance.choice(('books', 'music', 'tools', 'toys'))}", None),
        "order": ("GET", f"/orders/{chance.randrange(1, 401)}", None),
        "place": ("POST", "/orders", {"customer": chance.randrange(1, 80), "items": items}),
        "reviews": ("GET", f"/products/{product}/reviews", None),
        "related": ("GET", f"/products/{product}/related", None),
        "orders": ("GET", "/orders", None),
    }[action]


async def run(
    url: str, rate: float, seconds: float, seed: int, *, errors: float = 0.0, mark: bool = False, requests: int = 0
) -> Result:
    """Send ``rate`` requests a second on average for ``seconds``, or so many one by one; waits for the answers.

    Each has an ``X-Request-ID`` of its own; ``mark`` puts it into the query as well, where access logs show it.
    """
    chance, result, name = random.Random(seed), Result(), secrets.token_hex(3)
    # A connection each: uvicorn closes one after an uncaught error without saying so in the answer, and a
    # request that is already on its way there would be lost.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    async def send(client: httpx.AsyncClient, number: int, due: float) -> None:
        method, path, body = draw(random.Random(f"{seed}/{number}"), errors)
        identifier = f"{name}-{number:06d}"
        if mark:
            path += f"{'&' if '?' in path else '?'}request={identifier}"
        try:
            answer = await client.request(method, path, json=body, headers={"X-Request-ID": identifier})
        except httpx.HTTPError as error:
            result.failed[f"{type(error).__name__}: {error}"] += 1
            return
        result.statuses[answer.status_code] += 1
        result.latencies.append(loop.time() - due)

    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False) as client:
        for number in range(requests):
            result.sent += 1
            await send(client, number, loop.time())
        if requests:
            return result
        start = loop.time()
        due, number = chance.expovariate(rate), 0
        while due < seconds:
            await asyncio.sleep(max(0.0, start + due - loop.time()))
            if len(waiting) < MOST_WAITING:
                task = asyncio.create_task(send(client, number, start + due))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                result.sent += 1
            else:
                result.not_sent += 1
            due, number = due + chance.expovariate(rate), number + 1
        await asyncio.gather(*waiting)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 if every request was answered, with whatever status."""
    parser = argparse.ArgumentParser(prog="examples.shop.load", description="Poisson load on the shop.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default 40)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed draws the same requests (default 7)")
    parser.add_argument("--errors", type=float, default=0.0, help="share of requests that meet a bug (default 0)")
    parser.add_argument("--mark", action="store_true", help="put the request's id into the query as well")
    parser.add_argument("--requests", type=int, default=0, help="so many, one after the other, and no --rate")
    given = parser.parse_args(arguments)
    if not is_loopback(given.url):
        parser.error(f"--url {given.url}: only this machine's loopback addresses are allowed")
    if not 0 < given.rate <= MOST_RATE:
        parser.error(f"--rate {given.rate:g}: it must be above 0 and at most {MOST_RATE}")
    if not 0 < given.seconds <= MOST_SECONDS:
        parser.error(f"--seconds {given.seconds:g}: it must be above 0 and at most {MOST_SECONDS}")
    if not 0 <= given.requests <= MOST_REQUESTS:
        parser.error(f"--requests {given.requests}: it must be from 0 (as --rate says) to {MOST_REQUESTS}")
    options = {"errors": given.errors, "mark": given.mark, "requests": given.requests}
    result = asyncio.run(run(given.url, given.rate, given.seconds, given.seed, **options))
    print(result.as_json())
    return 0 if result.sent and not result.failed and not result.not_sent else 1


if __name__ == "__main__":
    sys.exit(main())
