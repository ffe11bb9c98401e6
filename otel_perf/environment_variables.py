"""The names of our variables, for ``opentelemetry-instrument``, which makes a ``--perf_…`` flag of each.

Derived from the features' settings, so that a new feature has its flags.
"""

from __future__ import annotations

from dataclasses import fields

from otel_perf.core.home import HOME_VARIABLE
from otel_perf.core.rollout import ENABLED_VARIABLE, FLAGS_VARIABLE
from otel_perf.core.settings import PREFIX, variable
from otel_perf.features import discover


def names() -> list[str]:
    """Every variable of ours, the general ones first."""
    found = [ENABLED_VARIABLE, HOME_VARIABLE, FLAGS_VARIABLE]
    for feature in discover():
        found.append(f"{PREFIX}_{feature.name.upper()}")
        found += [variable(feature.name, item.name) for item in fields(feature.settings_type)]
    return found


globals().update({name: name for name in names()})
