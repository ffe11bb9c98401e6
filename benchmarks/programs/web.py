"""The application of benchmarks/requests.py: knows nothing of otel-perf, and of OpenTelemetry only how to flush."""

import logging

from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

log = logging.getLogger("shop")
# Not basicConfig: it does nothing after upstream has put its handler on the root logger.
logging.getLogger().setLevel(logging.INFO)
log.addHandler(logging.StreamHandler())

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL)"))
    for number in range(100):
        connection.execute(text("INSERT INTO item VALUES (:id, :name, 9.5)"), {"id": number, "name": f"item {number}"})

app = FastAPI()


@app.get("/hello")
async def hello() -> dict[str, object]:
    """A JSON answer and a log line."""
    log.info("hello %s", "world")
    return {"message": "hello", "values": list(range(10))}


@app.get("/items/{number}")
async def item(number: int) -> dict[str, object]:
    """A query and a log line."""
    log.info("item %d asked for", number)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT id, name, price FROM item WHERE id = :id"), {"id": number % 100}).one()
    return {"id": row.id, "name": row.name, "price": row.price}


@app.post("/flush")
def flush() -> dict[str, object]:
    """Export what was recorded, so that its cost falls within the measurement."""
    from opentelemetry import _logs, metrics, trace

    for provider in (trace.get_tracer_provider(), _logs.get_logger_provider(), metrics.get_meter_provider()):
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None:
            force_flush()
    return {}
