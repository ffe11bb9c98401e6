"""The command otel-perf schema."""

import json
from pathlib import Path

import jsonschema
import pytest

from otel_perf import cli
from otel_perf.logs.record import schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fields", ["otel", "ecs"])
def test_it_prints_the_schema_of_a_line(capsys, fields):
    assert cli.main(["schema", "log", "--fields", fields]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema(fields)
    jsonschema.Draft202012Validator.check_schema(printed)


def test_opentelemetrys_names_are_the_usual_ones(capsys):
    cli.main(["schema", "log"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["$id"] == "urn:otel-perf:log:1"
    assert {"timestamp", "body", "severity_text", "severity_number", "service.name"} <= set(printed["required"])


def test_wrong_usage_is_2():
    with pytest.raises(SystemExit) as ended:
        cli.main(["schema", "nonsense"])
    assert ended.value.code == 2
