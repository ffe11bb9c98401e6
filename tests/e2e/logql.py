"""LogQL: Loki's own parser says whether a query is one, and which of the log records it selects is worked out here."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Final

from tests.built import built

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_FILTER: Final = re.compile(r'([\w]+)\s*(=~|!~|!=|>=|<=|=|>|<)\s*("(?:[^"\\]|\\.)*"|[\d.]+)')


def errors(queries: Sequence[str]) -> list[str]:
    """What Loki's parser says of each; empty where it takes it. Without Go the test is skipped, in CI it fails."""
    done = subprocess.run([built("logql")], input=json.dumps(list(queries)), capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def selected(query: str, records: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The records that the one selector of ``query`` and its filters leave, and that have what it unwraps."""
    inner = query[query.index("{") :].partition(" [")[0].strip()
    head, *stages = inner.split(" | ")
    wanted = _FILTER.findall(head)
    unwraps = []
    for stage in stages:
        if stage.startswith("unwrap "):
            unwraps.append(stage.split()[1])
            continue
        found = _FILTER.fullmatch(stage.strip())
        assert found, f"{query}: {stage!r} is no filter that is known here"
        wanted.append(found.groups())
    return [
        record
        for record in records
        if all(_passes(record.get(name, ""), operator, text) for name, operator, text in wanted)
        and all(_is_number(record.get(name, "")) for name in unwraps)
    ]


def labels(query: str) -> set[str]:
    """The labels that a query groups by."""
    return {name.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for name in group.split(",")}


def _passes(found: str, operator: str, text: str) -> bool:
    if not text.startswith('"'):
        return _is_number(found) and {
            ">=": float(found) >= float(text), "<=": float(found) <= float(text), ">": float(found) > float(text),
            "<": float(found) < float(text), "=": float(found) == float(text), "!=": float(found) != float(text),
        }[operator]  # fmt: skip
    value = json.loads(text)
    if operator in {"=~", "!~"}:
        return bool(re.fullmatch(value, found)) == (operator == "=~")
    return (found == value) == (operator == "=")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
