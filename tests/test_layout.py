"""Rules of the layout that import-linter cannot express, and files that are generated."""

import ast
from pathlib import Path

import pytest

import otel_perf
from otel_perf.features import discover
from tools import documents

PACKAGE = Path(otel_perf.__file__).parent
SDK_ALLOWED = (
    "providers.py",
    "pipeline.py",
    "resource.py",
    "distro.py",
    "testing.py",
    "bottlenecks/",
    "store/",
    "calls/statistics.py",
    "core/histograms.py",
    "logs/request_sink.py",
)


def runtime_imports(path):
    """Modules that ``path`` imports outside of ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_sdk_is_imported_only_where_it_has_to_be(path):
    name = str(path.relative_to(PACKAGE))
    if not name.startswith(SDK_ALLOWED):
        assert [module for module in runtime_imports(path) if module.startswith("opentelemetry.sdk")] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_setting_says_what_it_is():
    from dataclasses import fields

    for feature in discover():
        for item in fields(feature.settings_type):
            assert item.metadata.get("doc", "").endswith("."), f"{feature.name}.{item.name}"


@pytest.mark.parametrize("name", sorted(documents.GENERATED))
def test_generated_documents_are_up_to_date(name):
    """Run ``make docs`` when this fails."""
    assert (documents.ROOT / name).read_text() == documents.GENERATED[name]()
