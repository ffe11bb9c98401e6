"""A celery app, its worker, and what sends to it: ``python tasks.py``."""

from __future__ import annotations

import said
from celery import Celery
from celery.signals import setup_logging
from opentelemetry import trace

import otel_perf as perf

app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}


@setup_logging.connect
def configured(**_: object) -> None:
    said.configure()


@app.task
def work(number: str) -> None:
    """Speak, and hand on."""
    said.say(number, "worker")
    said.in_thread(number)
    if number == "1":
        work.delay("2")


@app.task
def alone(number: str) -> None:
    """Work with an id of its own."""
    with perf.correlation(f"alone-{number}"):
        said.say(number, "alone")


if __name__ == "__main__":
    with trace.get_tracer("sender").start_as_current_span("sender") as span, perf.correlation("job-17"):
        work.delay("1")
        print(f"{span.get_span_context().trace_id:032x}")
    alone.delay("3")
