"""Django's settings, views and routes in one file."""

from __future__ import annotations

from typing import Any

import said
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from opentelemetry import trace

DEBUG = False
SECRET_KEY = "none"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
MIDDLEWARE: list[str] = []
LOGGING_CONFIG = None
USE_TZ = True

said.configure()


def trace_id() -> str:
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


def work(request: Any) -> HttpResponse:
    said.say(request.GET["n"], "here")
    said.in_thread(request.GET["n"])
    return HttpResponse(trace_id())


def boom(request: Any) -> HttpResponse:
    raise RuntimeError(f"n={request.GET['n']} boom")


def stream(request: Any) -> StreamingHttpResponse:
    number = request.GET["n"]

    def parts() -> Any:
        for part in range(2):
            said.say(number, f"part{part}")
            yield b"x"

    return StreamingHttpResponse(parts())


urlpatterns = [path("work", work), path("boom", boom), path("stream", stream)]
