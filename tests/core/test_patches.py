"""What the app imports is told once, to who wants to know then, and nothing is kept for who does not any more."""

import importlib
import sys
from contextlib import ExitStack

import pytest
from wrapt import importer

from otel_perf.core import patches
from otel_perf.core.guard import Guard
from otel_perf.core.patches import on_import


@pytest.fixture
def wares(tmp_path, monkeypatch):
    """A module to import."""
    (tmp_path / "wares.py").write_text("price = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "wares"
    sys.modules.pop("wares", None)
    patches._waiting.pop("wares", None)
    importer._post_import_hooks.pop("wares", None)


def test_who_wants_to_know_is_told_when_it_is_imported_and_afterwards_at_once(wares):
    told = []
    with ExitStack() as undo:
        for name in "ab":
            on_import(wares, lambda module, name=name: told.append((name, module.price)), undo)
        assert told == []
        importlib.import_module(wares)
        assert told == [("a", 3), ("b", 3)]
        on_import(wares, lambda module: told.append(("c", module.price)), undo)
    assert told == [("a", 3), ("b", 3), ("c", 3)]


def test_who_does_not_want_to_know_any_more_is_not_told_and_not_kept(wares):
    told = []
    for _ in range(100):
        with ExitStack() as undo:
            on_import(wares, told.append, undo)
    assert patches._waiting[wares] == []
    assert len(importer._post_import_hooks[wares]) == 1
    importlib.import_module(wares)
    assert told == []


def test_it_is_told_again_when_it_is_imported_anew(wares):
    told = []
    with ExitStack() as undo:
        for number in (1, 2):
            on_import(wares, lambda module, number=number: told.append(number), undo)
            importlib.import_module(wares)
            del sys.modules[wares]
    assert told == [1, 2]


@pytest.mark.usefixtures("absorbing")
def test_what_fails_leaves_the_import_and_the_others_alone(wares):
    told, guard = [], Guard("test")
    with ExitStack() as undo:
        on_import(wares, lambda module: 1 / 0, undo, guard)
        on_import(wares, lambda module: 1 / 0, undo)
        on_import(wares, told.append, undo)
        assert importlib.import_module(wares).price == 3
    assert len(told) == 1
    assert guard.errors == 1


def test_an_import_by_another_thread_just_now_is_told(wares, monkeypatch):
    """GIVEN a module that is imported between the look whether it is there and the entry in the list."""
    told = []
    with ExitStack() as undo:
        on_import(wares, lambda module: None, undo)

        class Imported(ExitStack):
            def callback(self, *arguments):
                importlib.import_module(wares)
                return undo.callback(*arguments)

        on_import(wares, told.append, Imported())
        assert [module.price for module in told] == [3]
