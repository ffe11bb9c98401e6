"""What the project's own tools make for the tests, and what a test does where this machine lacks something."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def missing(what: str) -> NoReturn:
    """Skip, saying what this machine lacks; in CI, where everything has to be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def built(name: str, *arguments: str) -> Path:
    """What ``tools/<name>.py`` makes, made if it is missing. Where it cannot be had the test is skipped, in CI it fails."""
    sys.path.insert(0, str(TOOLS))
    try:
        return Path(__import__(name).ensure(*arguments))
    except RuntimeError as error:
        missing(str(error))
    finally:
        sys.path.pop(0)
