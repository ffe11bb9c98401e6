"""collector/loki.yaml on the real Loki, built from its module: lines that come late are taken and found."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.built import built
from tests.deployment.files import COLLECTOR
from tests.e2e import otlp_json as otlp
from tests.e2e.support import Running, free_port, wait_for

pytestmark = pytest.mark.soak  # its build takes minutes where it was never made
CONFIG = COLLECTOR / "loki.yaml"
DAY = 24 * 3600


@pytest.fixture(scope="module")
def loki(tmp_path_factory):
    """Its address; its files are in a folder of the test."""
    folder, port = tmp_path_factory.mktemp("loki"), free_port()
    text = CONFIG.read_text()
    for old, new in ((" 3100,", f" {port},"), (" 9096,", f" {free_port()},"), (": /loki", f": {folder}/loki")):
        assert old in text, old
        text = text.replace(old, new)
    file = folder / "loki.yaml"
    file.write_text(text)
    command = [str(built("loki")), f"-config.file={file}", "-server.http-listen-address=127.0.0.1"]
    with Running(command, {"PATH": "/usr/bin:/bin"}, folder, folder / "loki.log") as process:
        process.wait_until_listening(port)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: takes(url, "now", 0), 60, "it takes lines")
        yield url


def takes(url, line, ago, service="other"):
    """Whether a line of ``ago`` seconds ago is taken."""
    at = str(int((time.time() - ago) * 1e9))
    try:
        otlp.send(f"{url}/otlp", "logs", [otlp.record(line, timeUnixNano=at)], service)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


def found(url, ago, service="other"):
    """The lines of an hour that was ``ago`` seconds ago."""
    then = time.time() - ago
    asked = {"query": f'{{service_name="{service}"}}', "start": then - 1800, "end": then + 1800}
    query = urllib.parse.urlencode(asked)
    with urllib.request.urlopen(f"{url}/loki/api/v1/query_range?{query}", timeout=20) as answer:
        streams = json.load(answer)["data"]["result"]
    return [line for stream in streams for _, line in stream["values"]]


def test_loki_reads_it_and_says_what_it_does_not_know(tmp_path):
    assert verified(CONFIG).returncode == 0
    wrong = tmp_path / "loki.yaml"
    wrong.write_text(CONFIG.read_text().replace("max_chunk_age", "max_chunk_years"))
    assert "max_chunk_years" in verified(wrong).stderr


def verified(file):
    command = [built("loki"), f"-config.file={file}", "-verify-config"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("days", [0.1, 1, 6])
def test_what_waited_for_days_is_taken_and_found(loki, days):
    """GIVEN newer lines of the same service WHEN one comes that waited in a store THEN it is there, at its time."""
    assert takes(loki, f"waited {days}", days * DAY)
    wait_for(lambda: f"waited {days}" in found(loki, days * DAY), what="the line is found")


def test_what_is_older_than_what_is_kept_is_turned_away(loki):
    assert not takes(loki, "too old", 9 * DAY)
