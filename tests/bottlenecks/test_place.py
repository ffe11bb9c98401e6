"""A place is the app's line, and a library's only where there is no other."""

import json
import os
import sqlite3
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from otel_perf.bottlenecks import place
from otel_perf.bottlenecks.place import DEPTH, here, place_of, stack_of
from otel_perf.core.owner import APP, FILES, LIBRARY, MACHINE, _owners, owner

SITE = sysconfig.get_path("purelib")


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        (__file__, APP),
        ("/srv/app/views.py", APP),
        ("/srv/otel_perf_app/views.py", APP),
        ("app/views.py", APP),
        ("<stdin>", APP),
        (f"{SITE}/requests/api.py", LIBRARY),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", LIBRARY),
        (f"{SITE}/opentelemetry/sdk/trace/__init__.py", MACHINE),
        (f"{SITE}/wrapt/patches.py", MACHINE),
        (place.__file__, MACHINE),
        (json.__file__, MACHINE),
        (threading.__file__, MACHINE),
        ("<frozen importlib._bootstrap>", MACHINE),
        ("<string>", MACHINE),
    ],
)
def test_whose_a_file_is(filename, expected):
    assert owner(filename) == expected


def test_files_are_remembered_up_to_a_limit():
    for number in range(FILES + 100):
        owner(f"/srv/generated/{number}.py")
    assert len(_owners) <= FILES


def compiled(filename, text):
    space = {"here": here, "sys": sys}
    exec(compile(text, filename, "exec"), space)
    return space


def test_the_innermost_line_of_the_app_is_meant():
    library = compiled(f"{SITE}/lib/core.py", "def call(function):\n    return function()\n")

    def asked():
        return library["call"](lambda: here(0))

    found = asked()
    assert found.function.endswith("asked.<locals>.<lambda>")
    assert found.path == os.path.relpath(__file__)
    assert [code.co_name for code, _ in found.callers[:2]] == ["asked", "test_the_innermost_line_of_the_app_is_meant"]


def test_a_library_that_the_app_calls_is_looked_through():
    library = compiled(f"{SITE}/lib/core.py", "def call():\n    return here(0)\n")
    found = library["call"]()
    assert found.function == "test_a_library_that_the_app_calls_is_looked_through"
    assert str(found) == f"{os.path.relpath(__file__)}:{found.line}"


def test_where_there_is_no_app_a_library_is_named_and_where_there_is_none_nothing():
    library = compiled(f"{SITE}/lib/core.py", "def call():\n    return sys._getframe()\n")["call"]()
    machine = compiled(json.__file__, "def call():\n    return sys._getframe()\n")["call"]()
    own, other = (library.f_code, 2), (machine.f_code, 2)
    assert place_of([other, own, other]).function == "call"
    assert place_of([other, own]).path.endswith("lib/core.py")
    assert place_of([other]) is None
    assert place_of([]) is None


def test_a_callback_from_c_is_the_apps(monkeypatch):
    connection = sqlite3.connect(":memory:")
    found = []
    connection.create_function("f", 0, lambda: found.append(here(0)) or 1)
    connection.execute("SELECT f()").fetchall()
    connection.close()
    assert found[0].function.endswith("<lambda>")


def test_a_deep_stack_is_looked_at_to_some_depth():
    def deep(left):
        return list(stack_of(sys._getframe())) if left == 0 else deep(left - 1)

    assert len(deep(DEPTH + 100)) == DEPTH


def test_a_working_folder_that_was_deleted_breaks_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert here(0).path == __file__
    finally:
        os.chdir(before)


def test_a_place_is_compared_without_its_callers():
    def ask():
        return here(0)

    first = ask()

    def through():
        return ask()

    second = through()
    assert first == second
    assert first.callers != second.callers
