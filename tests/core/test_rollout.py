"""Kill switch, environment, flag file, OpenFeature and default, in this order."""

import json
import os

import pytest
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from otel_perf.core.rollout import Decision, Rollout


def write_flags(path, **values):
    flags = {
        f"perf.{name}": {"state": "ENABLED", "variants": {"now": value}, "defaultVariant": "now"}
        for name, value in values.items()
    }
    path.write_text(json.dumps({"flags": flags}))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))


def test_everything_is_on_by_default():
    assert Rollout({}).decide("logs") == Decision(1.0, "default")


def test_the_kill_switch_beats_everything(tmp_path):
    write_flags(tmp_path / "f.json", logs=True)
    environ = {"OTEL_PERF_ENABLED": "off", "OTEL_PERF_LOGS": "on", "OTEL_PERF_FLAGS_FILE": str(tmp_path / "f.json")}
    assert Rollout(environ).decide("logs") == Decision(0.0, "OTEL_PERF_ENABLED")


def test_the_environment_beats_the_flag_file(tmp_path):
    write_flags(tmp_path / "f.json", logs=False, store="25%")
    rollout = Rollout({"OTEL_PERF_LOGS": "on", "OTEL_PERF_FLAGS_FILE": str(tmp_path / "f.json")})
    assert rollout.decide("logs") == Decision(1.0, "OTEL_PERF_LOGS")
    assert rollout.decide("store") == Decision(0.25, "flag file, perf.store")


def test_the_flag_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "f.json"
    write_flags(path, logs=True)
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(path)})
    assert not rollout.reload()
    write_flags(path, logs=False)
    assert rollout.reload()
    assert rollout.decide("logs").share == 0.0


def test_the_flag_file_has_a_kill_switch(tmp_path):
    write_flags(tmp_path / "f.json", enabled=False, logs=True)
    assert Rollout({"OTEL_PERF_FLAGS_FILE": str(tmp_path / "f.json")}).decide("logs").share == 0.0


def test_a_disabled_flag_is_no_answer(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(
        json.dumps({"flags": {"perf.logs": {"state": "DISABLED", "variants": {"a": False}, "defaultVariant": "a"}}})
    )
    assert Rollout({"OTEL_PERF_FLAGS_FILE": str(path)}).decide("logs").source == "default"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"flags": 3}', "\x00"])
def test_a_broken_flag_file_is_one_problem_and_changes_nothing(tmp_path, content):
    path = tmp_path / "f.json"
    write_flags(path, logs=False)
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(path)})
    path.write_text(content)
    assert not rollout.reload()
    rollout.reload()
    assert [problem.variable for problem in rollout.problems] == ["OTEL_PERF_FLAGS_FILE"]
    assert rollout.decide("logs").share == 0.0


def test_a_missing_flag_file_is_one_problem(tmp_path):
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(tmp_path / "none.json")})
    assert "none.json" in str(rollout.problems[0])


def test_a_variant_that_is_not_there_is_a_problem(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"flags": {"perf.logs": {"variants": {"a": True}, "defaultVariant": "b"}}}))
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(path)})
    assert rollout.decide("logs").source == "default"
    assert "perf.logs" in str(rollout.problems[0])


@pytest.mark.parametrize("variant", [["a"], {}, None, 3])
def test_a_variant_that_is_no_text_is_a_problem(tmp_path, variant):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"flags": {"perf.logs": {"variants": {"a": True}, "defaultVariant": variant}}}))
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(path)})
    assert rollout.decide("logs").source == "default"
    assert len(rollout.problems) == 1


def test_a_wrong_value_is_a_problem_once():
    rollout = Rollout({"OTEL_PERF_LOGS": "maybe"})
    assert rollout.decide("logs") == rollout.decide("logs") == Decision(1.0, "default")
    assert len(rollout.problems) == 1
    assert "OTEL_PERF_LOGS='maybe'" in str(rollout.problems[0])


def test_a_share_keeps_its_answer_and_its_size():
    quarter = Decision(0.25, "test")
    answers = {f"shop/{number}": quarter.applies_to(f"shop/{number}") for number in range(4000)}
    assert all(quarter.applies_to(identity) == answer for identity, answer in answers.items())
    assert 0.22 < sum(answers.values()) / len(answers) < 0.28
    assert not Decision(0.0, "test").applies_to("shop/1")


def test_an_openfeature_provider_of_the_app_is_asked():
    api.set_provider(InMemoryProvider({"perf.logs": InMemoryFlag("low", {"low": "10%"})}))
    try:
        assert Rollout({}).decide("logs") == Decision(0.1, "OpenFeature, perf.logs")
        assert Rollout({}).decide("store") == Decision(1.0, "default")
    finally:
        api.clear_providers()


def test_a_failing_openfeature_client_is_a_problem(monkeypatch):
    def broken():
        raise RuntimeError("provider down")

    monkeypatch.setattr(api, "get_client", broken)
    rollout = Rollout({})
    assert rollout.decide("logs").source == "default"
    assert "provider down" in str(rollout.problems[0])
