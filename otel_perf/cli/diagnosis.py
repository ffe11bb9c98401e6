"""What ``otel-perf doctor`` finds, and how it looks as text."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, Field

from otel_perf.cli import text
from otel_perf.cli.requirements import listed

_ITEMS: Final = {"traces": "span", "metrics": "metric collection", "logs": "log record"}


class Finding(BaseModel):
    """Something that needs mending, and how."""

    problem: str
    remedy: str


class FeatureState(BaseModel):
    """One feature: ``on``, ``off`` or a percentage, and what decided."""

    name: str
    state: str
    because: str


class Sending(BaseModel):
    """One signal's receiver, and what it answered to an empty request."""

    signal: str
    place: str
    protocol: str
    answer: str
    taken: bool
    ahead: float | None = Field(default=None, exclude=True)  # seconds that the clock here is before the receiver's


class Diagnosis(BaseModel):
    """All that ``otel-perf doctor`` shows; the schema of its ``--json``."""

    versions: dict[str, str]
    distro: list[str]
    configurator: list[str]
    features: list[FeatureState]
    exporters: dict[str, list[str]]
    sending: list[Sending]
    declared: str = Field(default="", exclude=True)  # the file that says where it goes
    home: str
    store: dict[str, Any]
    memory_limit: str
    sampling: str
    clock: str
    instrumentors: list[str]
    missing_here: list[str]
    findings: list[Finding]
    hints: list[Finding]  # worth knowing, nothing is wrong


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as text."""
    lines = [", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()), ""]
    lines += [f"Distro        {', '.join(diagnosis.distro) or 'none'}"]
    lines += [f"Configurator  {', '.join(diagnosis.configurator) or 'none'}"]
    lines += [f"Instrumentors {', '.join(diagnosis.instrumentors) or 'none'}"]
    sent = ", ".join(f"{signal} → {' + '.join(names) or 'nowhere'}" for signal, names in diagnosis.exporters.items())
    lines += [f"Exporters     {sent}"]
    lines += [f"Store         {diagnosis.store.get('folder', diagnosis.home)}: {_store_line(diagnosis.store)}"]
    lines += [f"Sending       {line}" for line in _sending_lines(diagnosis)]
    lines += [f"Sampling      {diagnosis.sampling}", f"Memory limit  {diagnosis.memory_limit}"]
    lines += [f"Clock         {diagnosis.clock}"]
    lines += [f"Missing here  {item}" for item in diagnosis.missing_here]
    lines += ["", "Features"]
    lines += text.table(
        ["NAME", "STATE", "BECAUSE OF"], [[f.name, f.state, f.because] for f in diagnosis.features], left=(0, 1, 2)
    )
    for heading, found in (("To mend", diagnosis.findings), ("Worth knowing", diagnosis.hints)):
        if found:
            lines += ["", f"{heading}: {len(found)}"]
        problems = [(finding.problem, finding.remedy) for finding in found]
        lines += listed(problems, "✗" if found is diagnosis.findings else "·")
    return "\n".join(lines if diagnosis.findings else [*lines, "", "All is well."])


def _store_line(store: dict[str, Any]) -> str:
    if store["state"] != "ready":
        return str(store["state"])
    pending = ", ".join(text.counted(items, _ITEMS[signal]) for signal, items in store["pending"].items())
    return f"{text.size(store['size'])}, {f'{pending} to send' if pending else 'empty'}"


def _sending_lines(diagnosis: Diagnosis) -> list[str]:
    lines = [
        f"{sending.signal} → {sending.place} ({sending.protocol}): {sending.answer}" for sending in diagnosis.sending
    ]
    for delivery in diagnosis.store.get("deliveries", ()):
        when = datetime.fromtimestamp(delivery["at"] / 1e9)
        went = f"failed: {delivery['error']}" if delivery["error"] else "was taken"
        lines.append(f"since {when:%Y-%m-%d %H:%M:%S} what goes to {delivery['place']} {went}")
    if diagnosis.declared:
        return [*lines, f"as {diagnosis.declared} declares, which is not asked here"]
    return lines or ["nowhere: no endpoint is named, and no receiver answers on localhost"]
