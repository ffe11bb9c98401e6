"""What the tests of the deployment share: its files, read."""

from pathlib import Path

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


def limits_fit(config, container, goal):
    """All in MiB: who refuses late is killed by the kernel, and garbage (up to ``goal``) refuses no metrics."""
    limiters = {name: each for name, each in config["processors"].items() if name.startswith("memory_limiter/")}
    assert all(each["limit_mib"] <= 0.8 * container for each in limiters.values())
    refuses = {name: each["limit_mib"] - each["spike_limit_mib"] for name, each in limiters.items()}
    assert min(refuses.values()) < goal < refuses["memory_limiter/metrics"] == max(refuses.values())
    assert goal <= 0.85 * container
