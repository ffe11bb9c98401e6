"""What the apps of this folder say: a line from each library in each place, each with the number of its request."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import structlog
from loguru import logger as loguru_logger

FORMAT = "%(otelTraceID)s|%(otelCorrelationID)s|%(message)s"
SERVERS = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "gunicorn.error",
    "gunicorn.access",
    "granian.access",
    "_granian",
)

log = logging.getLogger("lines")
structured = structlog.get_logger()


def _plain(_logger: object, _method: str, event: dict[str, object]) -> str:
    trace_id = event.get("trace_id", "0")
    return f"{trace_id}|{event.get('correlation_id', trace_id)}|{event['event']}"


def configure() -> None:
    """Print every line as ``trace id|correlation id|message``, each by one write, the server's as well."""
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in SERVERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(logging.Formatter(FORMAT))
    structlog.configure(processors=[_plain], logger_factory=structlog.WriteLoggerFactory())
    loguru_logger.remove()
    loguru_logger.add(sys.stdout, format="{extra[otelTraceID]}|{extra[otelCorrelationID]}|{message}", colorize=False)


def say(number: str, place: str) -> None:
    """One line from each library."""
    text = f"n={number} {place}"
    log.info("%s stdlib", text)
    structured.info(f"{text} structlog")
    loguru_logger.info("{} loguru", text)


def in_thread(number: str) -> None:
    """Say it in a thread."""
    thread = threading.Thread(target=say, args=(number, "thread"))
    thread.start()
    thread.join()


executor = ThreadPoolExecutor(4)
processes = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))


def start_processes() -> None:
    """Fork now, with no other thread at work that may hold a lock of somebody's."""
    processes.submit(int).result()
