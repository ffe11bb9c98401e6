"""The auto-instrumentation image by the Operator's contract, on plain folders: copied, put on PYTHONPATH, met by apps.

What the Operator does to a container is in its internal/instrumentation/python.go.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from otel_perf import __version__
from tests.e2e.programs import default_signals
from tests.e2e.support import wait_for
from tests.stored import spans
from tools import environments

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "collector" / "autoinstrumentation"
START = Path("opentelemetry", "instrumentation", "auto_instrumentation")
# What an app has in a venv of its own.
APPS = {
    "plain": ("flask==3.1.3",),
    # A set of its own of three years ago, wired by hand, with the protobuf and the urllib3 of that time.
    "old": (
        "opentelemetry-sdk==1.20.0", "opentelemetry-exporter-otlp-proto-http==1.20.0", "protobuf==4.25.8",
        "opentelemetry-instrumentation-flask==0.41b0", "flask==2.2.5", "werkzeug==2.3.8", "urllib3==1.26.20", "setuptools<80",
    ),
    "api": ("opentelemetry-api==1.30.0",),
    "urllib3": ("urllib3==1.26.20",),
}  # fmt: skip
PLAIN = """
import subprocess, sys
import flask

app = flask.Flask("shop")
app.add_url_rule("/x", view_func=lambda: "served")
print(app.test_client().get("/x").text, flush=True)
subprocess.run([sys.executable, "-c", "import sys; print('otel_perf' in sys.modules)"], check=True)
"""
OLD = """
import flask, google.protobuf, urllib3
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.version import __version__

OTLPSpanExporter()
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
app = flask.Flask("shop")
FlaskInstrumentor().instrument_app(app)
app.add_url_rule("/x", view_func=lambda: "served")
print(app.test_client().get("/x").text, [span.name for span in exporter.get_finished_spans()])
print(__version__, google.protobuf.__version__, urllib3.__version__)
"""
API = """
from importlib.metadata import version
from opentelemetry import trace

with trace.get_tracer("app").start_as_current_span("by hand") as span:
    print(span.is_recording(), version("opentelemetry-sdk"))
"""


@pytest.fixture(scope="module")
def image():
    """The image's folder, made as its Dockerfile makes it, once for what it is made of."""
    made_of = sorted(
        [
            *ROOT.glob("otel_perf/**/*.py"),
            *ROOT.glob("otel_perf/**/*.c"),
            *SOURCE.iterdir(),
            ROOT / "constraints.txt",
            ROOT / "pyproject.toml",
        ]
    )
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in made_of if file.is_file())).hexdigest()[:12]
    folder = environments.cache() / "autoinstrumentation" / f"{sys.version_info[0]}.{sys.version_info[1]}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with environments.locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            for old in sorted(folder.parent.glob("*/complete"), key=os.path.getmtime)[:-2]:
                shutil.rmtree(old.parent)
            path = os.pathsep.join((str(environments.uv().parent), os.environ["PATH"]))
            command = [sys.executable, SOURCE / "folder.py", folder, ROOT]
            subprocess.run(command, env={**os.environ, "PATH": path}, check=True)
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def injected(image, tmp_path_factory):
    """What the init container leaves in the pod's volume."""
    target = tmp_path_factory.mktemp("pod") / "otel-auto-instrumentation-python"
    subprocess.run(["cp", "-r", f"{image}/.", target], check=True)
    return target


def venv(name):
    """The app's own environment, cached by what is in it."""
    digest = hashlib.sha256(f"{sys.version}\0{APPS[name]}".encode()).hexdigest()[:12]
    folder = environments.cache() / "envs" / f"injected-{name}-{digest}"
    with environments.locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            uv = [environments.uv(), "pip", "install", "-q", "--python", folder / "bin" / "python"]
            subprocess.run([*uv, *APPS[name]], check=True)
            (folder / "complete").touch()
    return folder / "bin" / "python"


def run(python, program, target, home, own_path="", **variables):
    """A program in a container that the Operator has changed; ``own_path`` is the PYTHONPATH that it had."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COVERAGE"))}
    path = os.pathsep.join(filter(None, (str(target / START), own_path, str(target))))
    environ = kept | {"PYTHONPATH": path, "OTEL_PERF_HOME": str(home), "OTEL_PERF_STORE_PROBE": "off"} | variables
    return subprocess.run(
        [python, "-c", program], env=environ, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=default_signals,
    )  # fmt: skip


def test_an_app_that_knows_nothing_of_it_is_instrumented_and_so_are_its_children(injected, home):
    done = run(venv("plain"), PLAIN, injected, home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served\nTrue\n", "")
    (span,) = wait_for(lambda: spans(home), what="the span")
    assert (span.name, span.kind) == ("GET /x", "SERVER")
    assert span.resource["telemetry.distro.version"] == __version__


def test_an_app_with_an_older_set_of_its_own_runs_as_without(injected, home):
    """GIVEN older packages that conflict WHEN ours come first on PYTHONPATH THEN the app has its own, and one line why."""
    done = run(venv("old"), OLD, injected, home)
    without = subprocess.run(
        [venv("old"), "-c", OLD], env={"PATH": os.defpath}, capture_output=True, text=True, check=True
    )
    assert (done.returncode, done.stdout) == (0, without.stdout)
    assert done.stdout == "served ['/x']\n1.20.0 4.25.8 1.26.20\n"
    (line,) = set(done.stderr.splitlines()) - set(without.stderr.splitlines())
    assert line.startswith("otel-perf: left out, and the app runs without it: it has opentelemetry-api 1.20.0 (")
    assert "opentelemetry-sdk 1.20.0 (~=1.45.1 is needed) and" in line, "and how many more"
    assert not home.exists()


def test_an_app_with_an_older_library_keeps_it(injected, home):
    """GIVEN one package that we need newer THEN the line is about that, and the app has its own."""
    done = run(venv("urllib3"), "import urllib3; print(urllib3.__version__)", injected, home)
    assert (done.returncode, done.stdout) == (0, "1.26.20\n")
    assert done.stderr == (
        "otel-perf: left out, and the app runs without it: it has urllib3 1.26.20 (<3,>=2.2 is needed)\n"
    )


def test_an_app_that_only_calls_an_older_api_gets_ours(injected, home):
    """GIVEN a library that brought the API THEN spans made by hand are recorded: the API is stable."""
    done = run(venv("api"), API, injected, home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True 1.45.1\n", "")
    assert [span.name for span in spans(home)] == ["by hand"]


def test_the_apps_packages_come_first(injected, home, tmp_path):
    """GIVEN a module of the app with the name of one of ours THEN the app has its own, and its own sitecustomize."""
    (tmp_path / "sqlparse.py").write_text("OWN = True\n")
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = True\n")
    program = "import sqlparse, sys; print(sqlparse.OWN, customized, 'otel_perf' in sys.modules)"
    done = run(venv("plain"), program, injected, home, own_path=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True True\n", "")


def test_a_python_that_it_is_not_made_for_is_told_so(injected, home, tmp_path):
    """GIVEN a folder for another Python only WHEN it is met THEN one line, and nothing of it can be imported."""
    other = tmp_path / "other"
    shutil.copytree(injected / "opentelemetry", other / "opentelemetry")
    (other / "cpython-39-x86_64-linux-gnu").mkdir()
    program = "import importlib.util as u; print(u.find_spec('opentelemetry'))"
    done = run(venv("plain"), program, other, home)
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert done.stderr.startswith(
        "otel-perf: left out, and the app runs without it: it is made for cpython-39-x86_64-linux-gnu, and"
    )
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_broken_does_not_break_the_app(injected, home, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(injected / "opentelemetry", broken / "opentelemetry")
    (folder,) = injected.glob("cpython-*")
    (broken / folder.name).mkdir()
    done = run(venv("plain"), "print('runs')", broken, home)
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr.startswith("otel-perf: cannot start, and the app runs without it: FileNotFoundError(")
    assert done.stderr.count("\n") == 1


def test_nothing_is_started_where_the_sdk_is_off(injected, home):
    program = "import sys; print('otel_perf' in sys.modules)"
    done = run(venv("old"), program, injected, home, OTEL_SDK_DISABLED="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_what_is_copied_is_compiled_already(injected):
    """GIVEN files whose times the copy has changed THEN Python does not compile them anew at each start."""
    (folder,) = injected.glob("cpython-*")
    module = folder / "otel_perf" / "pipeline.py"
    (compiled,) = (module.parent / "__pycache__").glob("pipeline.cpython-*.pyc")
    flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
    assert flags == 0b01, "by the hash of the source, and unchecked"


def test_the_folder_is_what_the_operator_asks_for(injected):
    """No gRPC, a start-up file, small enough for the volume's 200 MB with three Pythons in it."""
    assert (injected / START / "sitecustomize.py").exists()
    (folder,) = injected.glob("cpython-*")
    assert not list(folder.glob("grpc*"))
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 60e6
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in folder.rglob("*") if file.is_file())
    needs = json.loads((folder / "needs.json").read_text())
    assert ["opentelemetry-sdk", "1.45.1", "opentelemetry-api", "==1.45.1"] in needs


@pytest.mark.parametrize("name", ["311", "312", "313"])
def test_the_dockerfile_makes_it_so_for_both_c_libraries(name):
    text = (SOURCE / "Dockerfile").read_text()
    assert f"COPY --from=glibc-{name} /made /autoinstrumentation\n" in text
    assert f"COPY --from=musl-{name} /made /autoinstrumentation-musl\n" in text
    assert text.count("python /src/collector/autoinstrumentation/folder.py /made /src") == 6
    assert "FROM busybox:" in text, "its cp is what the init container runs"
