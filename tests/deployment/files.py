"""What the tests of the deployment share: its files, read."""

import os
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "collector"
VERSION = "0.159.0"  # of the contrib image


def load(path):
    """A file of one YAML document."""
    return yaml.safe_load(path.read_text())


def load_all(path):
    """A file of several."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def tool(name):
    """What tools/``name``.py makes. Without Go the test is skipped, in CI it fails."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        module = __import__(name)
    finally:
        sys.path.pop(0)
    try:
        return module.ensure()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
