"""The instrumentors that need another treatment than being loaded at start, and why."""

from __future__ import annotations

import logging
import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.util._importlib_metadata import EntryPoint

    from otel_perf.pipeline import Pipeline

    Load = Callable[[], None]

_log = logging.getLogger("otel_perf")


def load(entry_point: EntryPoint, running: Pipeline | None, plainly: Load, **kwargs: Any) -> None:
    """Load one instrumentor: ``plainly``, unless that would harm the app or do what a feature does."""
    name = entry_point.name
    if name == "exceptions" and _is_on(running, "errors"):
        return  # it reports uncaught errors too: each would count twice
    if name == "logging" and _is_on(running, "logs"):
        return  # its handler on the root logger would silence an app that never configured logging
    if name == "system_metrics" and _is_on(running, "memory"):
        _load_system_metrics(entry_point, **kwargs)
    elif name == "django" and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        _load_with_django(plainly)
    else:
        plainly()


def _is_on(running: Pipeline | None, feature: str) -> bool:
    return running is not None and running.features[feature].on


def _load_system_metrics(entry_point: EntryPoint, **kwargs: Any) -> None:
    """Only its ``system.*``: the process's own metrics are ours, under the conventions' names."""
    instrumentor = entry_point.load()
    default = getattr(sys.modules[instrumentor.__module__], "_DEFAULT_CONFIG", {})
    system = {name: value for name, value in default.items() if name.startswith("system.")}
    instrumentor(config=system or None).instrument(**kwargs)


def _load_with_django(load_it: Load) -> None:
    """Wait for ``django.setup``.

    The instrumentor reads the settings, and ``manage.py`` and ``wsgi.py`` name these only when they run: loaded
    at start it would find none, call ``settings.configure()`` and leave the project with empty settings.
    """
    from wrapt import register_post_import_hook

    def hook(django: Any) -> None:
        original = django.setup

        @wraps(original)
        def setup(*args: Any, **kwargs: Any) -> Any:
            django.setup = original
            try:
                load_it()
            except Exception:
                _log.warning("otel-perf: Django cannot be instrumented", exc_info=True)
            return original(*args, **kwargs)

        django.setup = setup

    register_post_import_hook(hook, "django")
