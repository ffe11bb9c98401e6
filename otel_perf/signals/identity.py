"""Who this process is on a board."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

from otel_perf.signals.signal import Producer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_perf.signals.settings import SignalsSettings


def producer_of(settings: SignalsSettings, environ: Mapping[str, str], agent: str = "") -> Producer:
    """A new life. Its identity is the agent's name, else the service's, with the instance's id where one was given."""
    resource = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    service = environ.get("OTEL_SERVICE_NAME", "").strip() or resource.get("service.name", "")
    name = agent or settings.agent
    instance = "" if agent else resource.get("service.instance.id", "")
    identity = "/".join(part for part in (name or service or "unknown_service", instance) if part)
    return Producer(
        identity, uuid.uuid4().hex, service, name, "" if agent else settings.agent_id, socket.gethostname(), os.getpid()
    )


def _pairs(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(","))
    return {name.strip(): value.strip() for name, found, value in pairs if found}
