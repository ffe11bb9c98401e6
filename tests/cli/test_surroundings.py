"""What is around the program is seen, and what is wrong with it named with the command that mends it."""

import time
from types import SimpleNamespace

import pytest

from otel_perf.cli import requirements, surroundings
from otel_perf.cli.diagnosis import Sending


class Distribution:
    def __init__(self, name, version, requires=()):
        self.metadata = {"Name": name}
        self.version = version
        self.requires = list(requires)


@pytest.fixture
def installed(monkeypatch):
    """Puts packages in place of those that are installed."""

    def put(*packages):
        versions = {package.metadata["Name"]: package.version for package in packages}

        def version(name):
            if name not in versions:
                raise surroundings.metadata.PackageNotFoundError(name)
            return versions[name]

        there = SimpleNamespace(
            distributions=lambda: packages, version=version,
            PackageNotFoundError=surroundings.metadata.PackageNotFoundError,
        )  # fmt: skip
        for module in (surroundings, requirements):
            monkeypatch.setattr(module, "metadata", there)

    return put


def found(look, *arguments):
    findings = []
    answer = look(*arguments, findings)
    return answer, [f"{finding.problem} | {finding.remedy}" for finding in findings]


def misfits():
    """What needs mending, and what is worth knowing."""
    return tuple([f"{problem} | {remedy}" for problem, remedy in told] for told in requirements.conflicts())


def test_an_instrumentor_for_another_version_of_its_library(installed):
    installed(
        Distribution("opentelemetry-instrumentation-flask", "0.66b1", ["flask>=1.0; extra == 'instruments'"]),
        Distribution("flask", "0.9"),
    )
    (line,), _ = misfits()
    assert line == (
        "opentelemetry-instrumentation-flask 0.66b1 needs flask>=1.0, and 0.9 is installed: it does not instrument it"
        " | pip install 'flask>=1.0'"
    )
    assert requirements.show("report", KeyError("x"), as_json=False) == "", "it is not why a command cannot go on"


def test_packages_of_opentelemetry_that_do_not_fit_together(installed):
    installed(
        Distribution("opentelemetry-sdk", "1.45.1", ["opentelemetry-api==1.45.1"]),
        Distribution("opentelemetry-api", "1.44.0", ["nothing-here>=1", "typing-extensions>=4; python_version < '3'"]),
        Distribution("typing-extensions", "1"),
    )
    (first, second), _ = misfits()
    assert first == (
        "opentelemetry-sdk 1.45.1 needs opentelemetry-api==1.45.1, and 1.44.0 is installed"
        " | pip install --upgrade opentelemetry-sdk 'opentelemetry-api==1.45.1'"
    )
    assert second == (
        "opentelemetry-api 1.44.0 needs nothing-here>=1, and it is not installed"
        " | pip install --upgrade opentelemetry-api 'nothing-here>=1'"
    )
    try:
        {}["x"]
    except KeyError as error:
        (line, *_), place = requirements.show("report", error, as_json=False).split("\n"), error.__traceback__.tb_lineno
    # It may have nothing to do with versions: where it was raised is not hidden.
    assert line.endswith(f"does not work with the packages that are installed: KeyError('x') ({__file__}:{place})")


def test_what_otel_perf_itself_needs_is_mended_in_one_line(installed):
    """Two lines would each break what the other mends: these packages pin each other."""
    installed(
        Distribution(
            "otel-perf", "0.1.0",
            [
                "opentelemetry-api<2,>=1.45", "opentelemetry-sdk<2,>=1.45", "pydantic<3,>=2.9", "psutil>=6",
                "grpcio>=1.66; extra == 'grpc'", "rich>=13.7; extra == 'rich'", "urllib3<3,>=2.2",
            ],
        ),
        Distribution("opentelemetry-api", "1.30.0"),
        Distribution("opentelemetry-sdk", "1.44.0", ["opentelemetry-api==1.44.0"]),
        Distribution("opentelemetry-instrumentation-x", "0.65b0", ["opentelemetry-api~=1.12"]),
        Distribution("pydantic", "3.0.1"),
        Distribution("psutil", "7.2"),
        Distribution("grpcio", "1.50"),
    )  # fmt: skip
    wrong, hints = misfits()
    remedy = (
        " | pip install --upgrade 'opentelemetry-api<2,>=1.45' opentelemetry-instrumentation-x"
        " 'opentelemetry-sdk<2,>=1.45' 'pydantic<3,>=2.9' 'urllib3<3,>=2.2'"
    )
    assert wrong == [
        f"otel-perf 0.1.0 needs opentelemetry-api<2,>=1.45, and 1.30.0 is installed{remedy}",
        f"otel-perf 0.1.0 needs opentelemetry-sdk<2,>=1.45, and 1.44.0 is installed{remedy}",
        f"otel-perf 0.1.0 needs pydantic<3,>=2.9, and 3.0.1 is installed{remedy}",
        f"otel-perf 0.1.0 needs urllib3<3,>=2.2, and it is not installed{remedy}",
        f"opentelemetry-sdk 1.44.0 needs opentelemetry-api==1.44.0, and 1.30.0 is installed{remedy}",
    ]
    assert hints == ["otel-perf[grpc] 0.1.0 needs grpcio>=1.66, and 1.50 is installed | pip install 'grpcio>=1.66'"]


def test_a_server_that_forks_without_telling_python(installed):
    installed(Distribution("uwsgi", "2.0.30"))
    _, (line,) = found(surroundings.servers, {"UWSGI_ENABLE_THREADS": "true"})
    assert "without py-call-uwsgi-fork-hooks" in line
    assert "UWSGI_PY_CALL_UWSGI_FORK_HOOKS=true" in line
    both = {"UWSGI_ENABLE_THREADS": "true", "UWSGI_PY_CALL_UWSGI_FORK_HOOKS": "1"}
    assert found(surroundings.servers, both)[1] == []
    installed(Distribution("uwsgi", "2.0.26"))
    _, (line,) = found(surroundings.servers, both)
    assert "pip install --upgrade 'uwsgi>=2.0.27'" in line


def test_a_limit_that_is_above_what_there_is(monkeypatch):
    answer, (line,) = found(surroundings.memory_limit, {"OTEL_PERF_MEMORY_LIMIT": "900000GB"})
    assert "without effect" in line
    assert "from" in answer
    answer, lines = found(surroundings.memory_limit, {"OTEL_PERF_MEMORY_LIMIT": "50MB"})
    assert (answer, lines) == ("50.0 MB, from OTEL_PERF_MEMORY_LIMIT", [])


def sending(ahead):
    return Sending(
        signal="traces", place="http://c:1", protocol="http/protobuf", answer="200 OK", taken=True, ahead=ahead
    )


@pytest.mark.parametrize(("ahead", "said"), [(120.2, "120 s ahead of"), (-3600, "3600 s behind")])
def test_a_clock_that_is_off(ahead, said):
    answer, (line,) = found(surroundings.clock, [sending(None), sending(ahead)], 0)
    assert answer == "differs from that of http://c:1"
    assert said in line
    assert "timedatectl set-ntp true" in line


def test_a_clock_that_agrees_and_one_that_nobody_compares():
    assert found(surroundings.clock, [sending(-1.5)], 0) == ("agrees with that of http://c:1", [])
    nobody = ("not compared: no receiver says over HTTP what time it is", [])
    assert found(surroundings.clock, [], 0) == nobody
    assert found(surroundings.clock, [sending(None)], 0) == nobody


SAMPLERS = (
    "always_off, always_on, parentbased_always_off, parentbased_always_on, parentbased_traceidratio, traceidratio"
)


@pytest.mark.parametrize(
    ("name", "argument", "answer", "said"),
    [
        ("parentbased_traceid_ratio", "0.1", "parentbased_always_on: 100%", "export OTEL_TRACES_SAMPLER=parentbased_traceidratio"),
        ("TraceIdRatio", "0.1", "parentbased_always_on: 100%", "export OTEL_TRACES_SAMPLER=traceidratio"),
        ("x", "", "parentbased_always_on: 100%", f"OTEL_TRACES_SAMPLER=x is no sampler that is installed; allowed: {SAMPLERS};"),
        ("traceidratio", "2", "traceidratio: 100%", "OTEL_TRACES_SAMPLER_ARG=2 is no ratio; allowed: 0.0 to 1.0"),
        ("traceidratio", "nan", "traceidratio: 100%", "OTEL_TRACES_SAMPLER_ARG=nan is no ratio"),
        ("traceidratio", "", "traceidratio: 100%", "OTEL_TRACES_SAMPLER_ARG= is no ratio"),
        ("traceidratio", "0.25", "traceidratio: 25%", ""),
        ("always_on", "", "always_on: 100%", ""),
    ],
)  # fmt: skip
def test_a_sampler_or_its_argument_that_upstream_does_not_know(name, argument, answer, said):
    findings, hints = [], []
    environ = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert surroundings.sampling(environ, findings, hints).startswith(answer)
    assert hints == []
    lines = [f"{finding.problem} | {finding.remedy}" for finding in findings]
    assert (lines == []) == (said == "")
    assert said in "".join(lines)


def test_an_argument_without_a_sampler_that_takes_one():
    findings, hints = [], []
    surroundings.sampling({"OTEL_TRACES_SAMPLER_ARG": "0.1"}, findings, hints)
    (hint,) = hints
    assert findings == []
    assert "OTEL_TRACES_SAMPLER_ARG=0.1 is without effect" in hint.problem


def test_a_clock_that_went_back():
    _, (line,) = found(surroundings.clock, [], int((time.time() + 3600) * 1e9))
    assert "the clock went back" in line
