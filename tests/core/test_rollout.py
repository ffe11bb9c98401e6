"""Kill switch, environment, flag file, OpenFeature and default, in this order."""

import json
import math
import os
import random
import subprocess
import sys
import uuid
from itertools import pairwise

import pytest
from openfeature import api
from openfeature.exception import TypeMismatchError
from openfeature.provider import ProviderStatus
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from opentelemetry import context

from otel_perf.core.rollout import BROKEN, Decision, Rollout


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


def some_instances(number):
    """Identities as they are: service name and instance id."""
    source = random.Random(9)
    return [f"shop-{index % 7}/{uuid.UUID(int=source.getrandbits(128), version=4)}" for index in range(number)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_share_of_a_thousand_instances_is_right(share):
    chosen = sum(Decision(share, "test").applies_to(identity) for identity in some_instances(1_000))
    assert abs(chosen - 1_000 * share) < 4 * math.sqrt(1_000 * share * (1 - share))  # standard deviations


def test_a_larger_share_has_the_instances_of_a_smaller_one():
    identities = some_instances(1_000)
    shares = [{i for i in identities if Decision(share, "test").applies_to(i)} for share in (0.1, 0.25, 0.5, 1.0)]
    assert all(smaller < larger for smaller, larger in pairwise(shares))


def test_the_same_instances_are_chosen_in_every_process():
    program = """if True:
        import sys
        from otel_perf.core.rollout import Decision
        decision = Decision(0.3, "test")
        print("".join("01"[decision.applies_to(line.strip())] for line in sys.stdin))
    """
    identities = some_instances(1_000)
    here = "".join("01"[Decision(0.3, "elsewhere").applies_to(identity)] for identity in identities)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program], input="\n".join(identities), env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == here


@pytest.fixture
def openfeature(monkeypatch):
    """The app uses it."""
    monkeypatch.setitem(sys.modules, "openfeature.api", api)


@pytest.fixture
def provider(openfeature):
    """Have OpenFeature answer with these flags."""

    def use(kind=InMemoryProvider, **values):
        flags = {f"perf.{name}": InMemoryFlag("now", {"now": value}) for name, value in values.items()}
        api.set_provider_and_wait(kind(flags))

    yield use
    api.clear_providers()


class Typed(InMemoryProvider):
    """One whose flags have types, like flagd's: a boolean has no text."""

    def resolve_string_details(self, flag_key, default_value, evaluation_context=None):
        found = super().resolve_string_details(flag_key, default_value, evaluation_context)
        if not isinstance(found.value, str):
            raise TypeMismatchError(f"{flag_key} is no text")
        return found


def test_an_openfeature_provider_of_the_app_is_asked(provider):
    provider(logs="10%")
    assert Rollout({}).decide("logs") == Decision(0.1, "OpenFeature, perf.logs")
    assert Rollout({}).decide("store") == Decision(1.0, "default")


@pytest.mark.parametrize("kind", [InMemoryProvider, Typed])
def test_a_boolean_flag_of_a_provider_counts(provider, kind):
    provider(kind, logs=False, store=True, memory="10%")
    rollout = Rollout({})
    assert [rollout.decide(name).share for name in ("logs", "store", "memory", "calls")] == [0.0, 1.0, 0.1, 1.0]
    assert rollout.problems == []


def test_a_provider_has_a_kill_switch_below_the_flag_file(provider, tmp_path):
    provider(enabled=False, logs=True)
    write_flags(tmp_path / "f.json", store=True)
    rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(tmp_path / "f.json")})
    assert rollout.decide("logs") == Decision(0.0, "OpenFeature, perf.enabled")
    assert rollout.decide("store") == Decision(1.0, "flag file, perf.store")


def test_a_kill_switch_that_is_on_says_nothing(provider):
    provider(enabled=True, logs="10%")
    assert Rollout({}).decide("logs") == Decision(0.1, "OpenFeature, perf.logs")


def test_what_a_provider_does_to_answer_makes_no_spans(provider):
    suppressed = []

    class Asking(InMemoryProvider):
        def resolve_string_details(self, **arguments):
            suppressed.append(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))
            return super().resolve_string_details(**arguments)

    provider(Asking, logs="10%")
    Rollout({}).decide("logs")
    assert suppressed == [True, True]  # the switch and the flag
    assert context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY) is None


def test_a_provider_that_breaks_down_keeps_what_it_said_and_is_left_alone_for_a_while(provider, monkeypatch):
    now, asked, broken = [0.0], [], []
    monkeypatch.setattr("otel_perf.core.rollout.monotonic", lambda: now[0])

    class Breaking(InMemoryProvider):
        def resolve_string_details(self, **arguments):
            asked.append(arguments["flag_key"])
            if broken:
                raise OSError("no route to it")
            return super().resolve_string_details(**arguments)

    provider(Breaking, logs="10%")
    rollout = Rollout({})
    assert rollout.decide("logs").share == 0.1
    broken.append(1)
    asked.clear()
    for _ in range(5):
        rollout.reload()
        assert rollout.decide("logs").share == 0.1
    assert asked == ["perf.enabled"]
    (problem,) = rollout.problems
    assert "could not be asked of the OpenFeature provider (no route to it)" in str(problem)
    broken.clear()
    now[0] += BROKEN
    provider(Breaking, logs="20%")
    rollout.reload()
    assert rollout.decide("logs").share == 0.2


def test_a_provider_that_is_not_ready_changes_nothing(provider, monkeypatch):
    provider(logs="10%")
    rollout = Rollout({})
    assert rollout.decide("logs").share == 0.1
    client = api.get_client()
    monkeypatch.setattr(client, "get_provider_status", lambda: ProviderStatus.NOT_READY)
    monkeypatch.setattr(api, "get_client", lambda: client)
    rollout.reload()
    assert rollout.decide("logs").share == 0.1
    assert rollout.problems == []


def test_a_failing_openfeature_client_is_a_problem(openfeature, monkeypatch):
    def broken():
        raise RuntimeError("provider down")

    monkeypatch.setattr(api, "get_client", broken)
    rollout = Rollout({})
    assert rollout.decide("logs").source == "default"
    assert "provider down" in str(rollout.problems[0])
