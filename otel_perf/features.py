"""Finds the features: every package here that has a ``FEATURE``, in order of need."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Final

import otel_perf

if TYPE_CHECKING:
    from otel_perf.core.feature import Feature

_NOT_FEATURES: Final = frozenset({"core", "analysis", "view", "cli"})  # not imported in the app's process


def discover() -> list[Feature[Any]]:
    """Every feature, those that others need first, else by name. Raises ``ValueError`` for a cycle."""
    found: dict[str, Feature[Any]] = {}
    for module in iter_modules(otel_perf.__path__):
        if module.ispkg and module.name not in _NOT_FEATURES:
            feature = getattr(import_module(f"otel_perf.{module.name}"), "FEATURE", None)
            if feature is not None:
                found[feature.name] = feature
    return in_order_of_need(found)


def in_order_of_need(found: dict[str, Feature[Any]]) -> list[Feature[Any]]:
    """``found`` with every feature behind those that it needs; needs that are no feature are passed over."""
    ordered: dict[str, Feature[Any]] = {}

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"features need each other: {' → '.join((*path, name))}")
        feature = found.get(name)
        if feature is not None and name not in ordered:
            for need in sorted(feature.needs):
                add(need, (*path, name))
            ordered[name] = feature

    for name in sorted(found):
        add(name, ())
    return list(ordered.values())
