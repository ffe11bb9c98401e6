"""The command otel-perf, in process: what it prints and its exit codes."""

import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.trace import Status, StatusCode

from otel_perf import cli
from otel_perf.analysis.bottlenecks import Bottleneck
from otel_perf.analysis.summary import summarize
from otel_perf.cli import doctor, text
from otel_perf.cli import run as run_command
from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.store.database import StoreReader
from tests.e2e.support import instrumented

INSTRUMENTATION = doctor.metadata.version("opentelemetry-instrumentation")


@pytest.fixture
def filled(start, home):
    """A store with a small trace, an error, a log line and the process's figures."""
    pipeline = start()
    tracer = trace.get_tracer("t")
    with tracer.start_as_current_span("GET /orders", kind=trace.SpanKind.SERVER):
        with tracer.start_as_current_span("SELECT"):
            logging.getLogger("shop").error("no stock for %s", "book")
        with tracer.start_as_current_span("pay") as span:
            span.set_status(Status(StatusCode.ERROR, "declined"))
    try:
        with tracer.start_as_current_span("POST /orders"):
            raise KeyError("missing")
    except KeyError:
        sys.excepthook(*sys.exc_info())
    metrics.get_meter("m").create_histogram("size").record(4)
    pipeline.shutdown()
    return home


def test_the_report_names_operations_errors_memory_and_logs(filled, capsys):
    assert cli.main(["report"]) == 0
    out = capsys.readouterr().out
    for part in (
        "shop: 2 traces, 4 spans",
        "GET /orders",
        "server",
        "KeyError",
        "declined",
        "Memory",
        "MB",
        "Logs: 2 records",
    ):
        assert part in out
    assert out.count("KeyError") == 1, "one exception is one row, however many spans it passed through"


def test_the_report_as_json_has_the_schema(filled, capsys):
    assert cli.main(["report", "--json", "--top", "2", "--since", "1h", "--service", "shop"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["traces"] == 2
    assert len(report["operations"]) == 2
    assert report["processes"][0]["rss"] > 1_000_000
    assert report["slowest_traces"][0]["spans"] in {1, 3}


def test_another_service_is_left_out(filled, capsys):
    assert cli.main(["report", "--service", "other"]) == 0
    out = capsys.readouterr().out
    assert "No spans with" in out
    assert "Errors: none" in out


SLOW = """
import sqlite3, time
from opentelemetry import trace

database = sqlite3.connect(":memory:")
database.create_function("wait", 1, lambda seconds: time.sleep(seconds) or seconds)

def load(statement, seconds):
    return database.cursor().execute(statement, (seconds,)).fetchall()

with trace.get_tracer("t").start_as_current_span("GET /orders"):
    for number in range(8):
        load("SELECT wait(?) AS customer", 0.06)
    for number in range(6):
        load("SELECT wait(?) AS product", 0.06)
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The home of a program with a query in a loop, twice, from line 9."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "shop.py").write_text(SLOW)
    home, variables = folder / "home", {"OTEL_SERVICE_NAME": "shop"}
    with instrumented(Path(sys.prefix), home, "python", "shop.py", cwd=folder, variables=variables) as program:
        assert program.wait() == 0, program.output()
    return home


def test_the_report_begins_with_the_bottlenecks(slow, capsys):
    """GIVEN a query in a loop WHEN its run is reported THEN what it costs, why and where come first."""
    assert cli.main(["report", "--home", str(slow)]) == 0
    out = capsys.readouterr().out
    heading, _, title, columns, row, *evidence = out.splitlines()[:8]
    assert heading.startswith("shop: 1 trace, 15 spans")
    assert title == "Bottlenecks, by what mending them would save"
    assert columns.split() == ["KIND", "TRACES", "SAVES", "WORST", "IN", "TRACE", "WHERE"]
    time = r"(\d+ ms|\d\.\d\d s)"  # the second on a busy machine
    assert re.fullmatch(rf"  n_plus_one +1 +{time} +{time}  [0-9a-f]{{32}}  shop\.py:9", row)
    assert re.fullmatch(
        rf" {{6}}GET /orders ran SELECT wait\(\?\) AS customer 8 times \({time} of {time}\) from shop\.py:9;"
        rf" one query would save about {time}",
        f"{evidence[0]} {evidence[1].strip()}",
    )
    assert evidence[2] == "      also here: SELECT wait(?) AS product"
    assert out.index("Bottlenecks") < out.index("Slowest operations")
    assert "Logs:" not in out, "findings are no records of the app's"


def test_the_bottlenecks_as_json(slow, capsys):
    assert cli.main(["report", "--home", str(slow), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["bottlenecks"]
    assert (row["service"], row["kind"], row["findings"], row["traces"]) == ("shop", "n_plus_one", 2, 1)
    assert (row["path"], row["line"], row["function"], row["where"]) == ("shop.py", 9, "load", "shop.py:9")
    assert row["culprits"] == ["SELECT wait(?) AS customer", "SELECT wait(?) AS product"]
    assert 0.1 < row["worst"] < row["cost"] < report["slowest_traces"][0]["duration"]
    assert row["trace_id"] == report["slowest_traces"][0]["trace_id"]


@pytest.mark.parametrize("option", [["--service", "other"], ["--since", "1ms"]])
def test_bottlenecks_of_what_was_not_asked_for_are_left_out(option, slow, capsys):
    assert cli.main(["report", "--home", str(slow), *option]) == 0
    assert "Bottlenecks: none" in capsys.readouterr().out


def bottleneck(**changes):
    found = {
        "service": "shop", "kind": "slow_io", "findings": 1, "traces": 1, "cost": 1.0, "worst": 1.0, "where": "app.py:3",
        "culprits": ["GET"], "function": "f", "path": "app.py", "line": 3, "evidence": "It waited.", "trace_id": "ab" * 16,
    }  # fmt: skip
    return Bottleneck(**found | changes)


def test_long_evidence_is_wrapped_and_its_paths_stay_whole(filled, capsys):
    """GIVEN a long sentence with a long path WHEN it is shown THEN lines fit, but for a path that does not."""
    path = f"/srv/{'very-long-name/' * 8}orders.py"
    sentence = f"GET /orders waited {'long and ' * 12}for http://127.0.0.1 from {path}:12; less would be more"
    report = summarize_home(filled)
    report.bottlenecks = [bottleneck(evidence=sentence, path=path, where=f"{path}:12")]
    lines = text.render(report).splitlines()
    row = next(number for number, line in enumerate(lines) if "slow_io" in line)
    assert lines[row].endswith("  …y-long-name/very-long-name/orders.py:12")
    assert f"{path}:12;" in lines[row + 2] + lines[row + 3]
    assert all(len(line) <= 110 or path in line for line in lines[row : row + 5])
    assert all(line.startswith("      ") for line in lines[row + 1 : row + 4])


def test_the_service_is_named_where_there_are_several(filled):
    report = summarize_home(filled)
    report.services, report.bottlenecks = ["payment", "shop"], [bottleneck(service="payment", trace_id="")]
    shown = text.render(report)
    assert "KIND     SERVICE  TRACES" in shown
    assert "slow_io  payment       1" in shown


def summarize_home(home):
    reader = StoreReader(home)
    try:
        return summarize(reader)
    finally:
        reader.close()


def test_export_writes_otlp_json_lines_with_hex_ids(filled, capsys):
    assert cli.main(["export", "--signal", "traces"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {len(span["traceId"]) for span in spans} == {32}
    assert all(int(span["spanId"], 16) for span in spans)
    assert cli.main(["export", "--since", "1h"]) == 0
    signals = [next(iter(json.loads(line))) for line in capsys.readouterr().out.splitlines()]
    assert set(signals) == {"resourceSpans", "resourceMetrics", "resourceLogs"}


@pytest.mark.parametrize("command", ["report", "export"])
def test_without_a_store_the_answer_is_bad_and_says_what_to_do(command, home, capsys):
    assert cli.main([command]) == 1
    assert "run the program under opentelemetry-instrument" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(filled):
    import subprocess

    command = [sys.executable, "-m", "otel_perf", "report", "--home", str(filled)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "otel-perf report: cannot go on: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "required"),
        (["nonsense"], "invalid choice"),
        (["report", "--since", "soon"], "'soon' is not a duration; use a number with ms, s, m or h"),
        (["report", "--top", "0"], "1 or more"),
        (["report", "--top", "x"], "1 or more"),
        (["export", "--signal", "smells"], "invalid choice"),
        (["run"], "required"),
    ],
)
def test_wrong_usage_is_exit_code_2(words, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("otel-perf 0.")


def test_a_reader_that_goes_away_is_no_error(filled, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main(["export"]) == 0


def test_run_passes_on_the_exit_status_and_reports_to_stderr(home, capfd):
    program = "from opentelemetry import trace; trace.get_tracer('t').start_span('job').end(); print('out'); raise SystemExit(5)"
    assert cli.main(["run", sys.executable, "-c", program]) == 5
    done = capfd.readouterr()
    assert done.out == "out\n"
    assert "1 trace, 1 span" in done.err
    assert "job" in done.err


def test_run_reports_only_on_its_own_run(filled, capfd, tmp_path):
    program = "from opentelemetry import trace; trace.get_tracer('t').start_span('job').end()"
    output = tmp_path / "report.json"
    assert (
        cli.main(["run", "--home", str(filled), "--json", "--output", str(output), sys.executable, "-c", program]) == 0
    )
    assert capfd.readouterr().err == ""
    report = json.loads(output.read_text())
    assert [operation["name"] for operation in report["operations"]] == ["job"]


def test_a_report_that_cannot_be_written_leaves_the_exit_status(home, capfd):
    program = "from opentelemetry import trace; trace.get_tracer('t').start_span('job').end(); raise SystemExit(7)"
    assert cli.main(["run", "--output", "/dev/null/x", sys.executable, "-c", program]) == 7
    assert "cannot be written to /dev/null/x" in capfd.readouterr().err


YOUNG = "from otel_perf.store import exporter; exporter.YOUNG = 3600.0"  # however long a busy machine takes


@pytest.mark.parametrize("status", [0, 7])
def test_a_report_that_nobody_reads_leaves_the_exit_status(home, status):
    """GIVEN otel-perf run program 2>&1 | head, whose reader has gone THEN a program that failed has failed, and no other."""
    program = (
        f"from opentelemetry import trace; trace.get_tracer('t').start_span('job').end(); raise SystemExit({status})"
    )
    command = "import sys; from otel_perf.cli import main; sys.exit(main())"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", command, "run", sys.executable, "-c", program], stderr=write, check=False, timeout=60
    )
    os.close(write)
    assert done.returncode == status


def test_run_tells_a_death_by_signal_as_a_shell_does(home, capfd):
    killed = f"{YOUNG}; import os; os.kill(os.getpid(), 15)"
    assert cli.main(["run", "--no-report", sys.executable, "-c", killed]) == 143
    assert cli.main(["run", sys.executable, "-c", YOUNG]) == 0
    assert "made nothing that is stored" in capfd.readouterr().err


def test_run_of_what_is_no_program_is_wrong_usage(capsys):
    assert cli.main(["run", "no-such-program"]) == 2
    assert "'no-such-program' is not a program on the PATH" in capsys.readouterr().err


def test_run_keeps_the_users_python_path(home, monkeypatch):
    here = os.getcwd()
    first = run_command.environment({"PYTHONPATH": "/a"}, home)["PYTHONPATH"].split(os.pathsep)
    assert first[1:] == [here, "/a"]
    again = run_command.environment({"PYTHONPATH": os.pathsep.join([*first, ""])}, home)["PYTHONPATH"].split(os.pathsep)
    assert again == first


def test_doctor_finds_nothing_to_mend(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for part in (
        "All is well.",
        "Distro        otel_perf",
        "traces → store",
        "not made yet",
        "bottlenecks  on",
        "default",
    ):
        assert part in out


def test_doctor_shows_the_store(filled, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    assert cli.main(["doctor", "--json", "--home", str(filled)]) == 0
    diagnosis = json.loads(capsys.readouterr().out)
    assert diagnosis["store"]["pending"]["traces"] == 4
    assert diagnosis["versions"]["opentelemetry-sdk"]
    cli.main(["doctor", "--home", str(filled)])
    assert "4 spans" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "problem", "remedy"),
    [
        ({"OTEL_PYTHON_DISTRO": "oops"}, "names no installed distro", "OTEL_PYTHON_DISTRO=otel_perf"),
        ({"OTEL_PERF_STORE_LIMIT": "12 parsecs"}, "is not a size", "unset OTEL_PERF_STORE_LIMIT"),
        ({"OTEL_PERF_LOGS": "maybe"}, "is not on, off", "correct OTEL_PERF_LOGS"),
        ({"OTEL_TRACES_EXPORTER": "smoke,otlp"}, "'smoke', which is not installed", "pip install"),
        ({"OTEL_PERF_MEMROY": "off"}, "OTEL_PERF_MEMROY is no variable", "did you mean OTEL_PERF_MEMORY?"),
        ({"OTEL_PERF_XYZ_ABC_DEF": "1"}, "is no variable of otel-perf", "docs/configuration.md"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            "/v1/logs do not take what is sent",
            "start the receiver",
        ),
        ({"OTEL_PERF_HOME": "/dev/null/home"}, "cannot be written", "OTEL_PERF_HOME"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "always_off records no trace", "unset OTEL_TRACES_SAMPLER"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "traceidratio 0 records no trace",
            "unset OTEL_TRACES_SAMPLER",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
            "OTEL_TRACES_SAMPLER_ARG=10% is no ratio",
            "OTEL_TRACES_SAMPLER_ARG=0.1",
        ),
    ],
)
def test_doctor_names_each_problem_with_its_remedy(variables, problem, remedy, home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert problem in out
    assert remedy in out
    assert "To mend: 1" in out


def test_doctor_finds_other_distributions_and_missing_parts(home, monkeypatch, capsys):
    class Point:
        def __init__(self, name):
            self.name = name

    class Points(list):
        @property
        def names(self):
            return {point.name for point in self}

    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: Points([Point("aws")]))
    monkeypatch.setattr(doctor, "_has", lambda package: package in {"flask", "requests"})
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "otel-perf's distro is not registered" in out
    assert f"pip install opentelemetry-instrumentation-flask=={INSTRUMENTATION}\n" in out
    monkeypatch.setenv("OTEL_PYTHON_DISTRO", "aws")
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: Points([Point("aws"), Point("otel_perf")]))
    assert cli.main(["doctor"]) == 1
    assert "OTEL_PYTHON_DISTRO=aws chooses another distro" in capsys.readouterr().out


def test_doctor_reports_what_was_dropped_and_what_cannot_be_read(filled, capsys, monkeypatch):
    from otel_perf.core.home import STORE_FILE
    from otel_perf.store.database import Database

    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    database = Database(filled / STORE_FILE, limit=10**9)
    database._connection.execute("INSERT INTO dropped VALUES (0, 3, 900)")
    database.close()
    assert cli.main(["doctor"]) == 1
    assert "raise OTEL_PERF_STORE_LIMIT" in capsys.readouterr().out
    assert cli.main(["report"]) == 0
    assert "900 traces dropped at the size limit" in capsys.readouterr().out
    (filled / STORE_FILE).write_bytes(b"garbage" * 1000)
    assert cli.main(["doctor"]) == 1
    assert "a new one is made" in capsys.readouterr().out


def test_doctor_on_other_platforms_names_what_is_missing(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor.sys, "platform", "win32")
    monkeypatch.delattr(doctor.os, "register_at_fork")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert "Missing here  no fork" in out
    assert "Missing here  no sqlite3" in out


def test_doctor_shows_percentages_and_the_kill_switch(home, capsys, monkeypatch):
    monkeypatch.setenv("OTEL_PERF_LOGS", "25%")
    cli.main(["doctor"])
    assert "25%" in capsys.readouterr().out
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert "OTEL_SDK_DISABLED=true" in out
    assert "traces → nowhere (store is off)" in out


def test_run_says_why_there_is_no_report(home, capfd, monkeypatch):
    monkeypatch.setenv("OTEL_PERF_ENABLED", "off")
    assert cli.main(["run", sys.executable, "-c", "pass"]) == 0
    assert "switched off by OTEL_PERF_ENABLED=off" in capfd.readouterr().err


def test_the_module_is_the_command(home):
    import subprocess

    done = subprocess.run([sys.executable, "-m", "otel_perf", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("otel-perf 0.")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (250, "250 s"), (99.996, "100 s"), (1.5, "1.50 s"), (0.9996, "1.00 s"), (0.9994, "999 ms"), (0.0123, "12.3 ms"),
        (0.0009996, "1 ms"), (4.2e-5, "42 µs"), (9.996e-7, "1 µs"), (0, "0 ns"),
    ],
)  # fmt: skip
def test_durations_are_shown_with_a_fitting_unit(value, shown):
    assert text.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (-2_000_000, "-2.0 MB"), (3.2e9, "3.2 GB"), (5e12, "5000.0 GB")],
)
def test_sizes_are_shown_with_a_fitting_unit(value, shown):
    assert text.size(value) == shown


def test_long_names_are_clipped_to_one_line():
    assert text.clip("a\nb  c", 10) == "a b c"
    assert text.clip("x" * 20, 5) == "xxxx…"


def test_what_is_stored_is_private(filled):
    assert stat.S_IMODE(filled.stat().st_mode) == 0o700


def test_doctor_shows_a_receiver_that_answers_and_what_it_refused(filled, capsys, monkeypatch):
    from otel_perf.store.outbox import Outbox
    from tests.store.receiver import Receiver

    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    outbox = Outbox(filled / STORE_FILE, fsync=False)
    (batch,) = outbox.next("", "traces", after=0, batches=1, size=1)
    outbox.refuse([batch], "400 Bad Request: too old")
    outbox.note("/traces", "http://c/v1/traces", "400 Bad Request: too old")
    outbox.close()
    receiver = Receiver()
    with receiver.running():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"traces → {receiver.url}/v1/traces (http/protobuf): 200 OK" in out
    assert "what goes to http://c/v1/traces failed: 400 Bad Request: too old" in out
    assert "were refused: 400 Bad Request: too old" in out
    assert "otel-perf export --refused --signal traces" in out
    assert cli.main(["export", "--refused"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "resourceSpans" in json.loads(line)


def test_a_report_on_what_was_sent_says_where_it_is(start, home, capsys):
    from tests.store.receiver import Receiver

    receiver = Receiver()
    with receiver.running():
        pipeline = start(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_PERF_STORE_EXIT="20s")
        trace.get_tracer("t").start_span("x").end()
        pipeline.flush()
        # Of what a busy machine shows there may be events, too.
        assert {path for path, _, _ in receiver.requests} - {"/v1/logs"} == {"/v1/traces", "/v1/metrics"}
        pipeline.shutdown()
    assert cli.main(["report"]) == 0
    out = capsys.readouterr().out
    assert f"they were sent to {receiver.url}/v1/" in out
    assert "OTEL_PERF_STORE_KEEP=on" in out


def test_no_spans_at_all_says_why(start, capsys):
    pipeline = start()
    logging.getLogger("app").warning("only a line")
    pipeline.shutdown()
    assert cli.main(["report"]) == 0
    assert "No spans: no instrumentor made one" in capsys.readouterr().out


def test_doctor_tells_what_was_left_in_the_fallback(filled, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    fallback = Home({HOME_VARIABLE: str(filled)}).fallback()
    shutil.copy(filled / STORE_FILE, fallback)
    assert cli.main(["doctor", "--home", str(filled)]) == 1
    shown = capsys.readouterr().out
    assert f"{fallback} holds " in shown
    assert f"export OTEL_PERF_HOME={fallback}" in shown


def test_doctor_knows_variables_that_are_nearly_opentelemetrys(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    monkeypatch.setenv("OTEL_SERVICE_NAM", "shop")
    assert cli.main(["doctor"]) == 1
    assert "OTEL_SERVICE_NAM is no variable of OpenTelemetry" in capsys.readouterr().out


def test_missing_instrumentors_are_worth_knowing_and_nothing_to_mend(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_has", lambda package: package == "flask")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Worth knowing: 1" in out
    assert f"pip install opentelemetry-instrumentation-flask=={INSTRUMENTATION}\n" in out, "of the version that is here"
    assert "All is well." in out


@pytest.mark.parametrize(("needs_it", "hints"), [("uvicorn", 0), ("otel-perf", 0), ("shop", 1)])
def test_what_only_our_page_brought_needs_no_instrumentor(needs_it, hints, home, capsys, monkeypatch, tmp_path):
    """GIVEN click and starlette, which the extra view brings THEN they count once the app's packages need them."""
    folder = tmp_path / f"{needs_it.replace('-', '_')}-1.dist-info"
    folder.mkdir()
    wanted = 'Requires-Dist: Starlette>=0.46\nRequires-Dist: click>=7\nRequires-Dist: flask; extra == "view"\n'
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {needs_it}\nVersion: 1\n{wanted}")
    found = list(doctor.metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(doctor.requirements.metadata, "distributions", lambda: iter(found))
    monkeypatch.setattr(doctor, "_has", lambda package: package in {"click", "starlette"})
    assert doctor.requirements.needed_by("flask") == set()
    told = []
    doctor._instrumentors(told)
    missing = [f"opentelemetry-instrumentation-{name}=={INSTRUMENTATION}" for name in ("click", "starlette")]
    assert [hint.remedy for hint in told] == [f"pip install {' '.join(missing)}"] * hints


def test_a_missing_instrumentor_of_a_range_of_versions_is_quoted_and_known_once_it_is_there(monkeypatch):
    there = {"google-cloud-aiplatform"}
    monkeypatch.setattr(doctor, "_has", lambda package: package in there)
    told = []
    doctor._instrumentors(told)
    assert [hint.remedy for hint in told] == ["pip install 'opentelemetry-instrumentation-vertexai>=2.0b0'"]
    there.add("opentelemetry-instrumentation-vertexai")
    told.clear()
    doctor._instrumentors(told)
    assert told == []


def test_doctor_tells_what_waits_for_an_endpoint_that_is_not_set(filled, capsys, monkeypatch):
    import sqlite3

    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    with sqlite3.connect(filled / STORE_FILE) as store:
        store.execute("UPDATE batch SET destination = 'abc' WHERE signal = 0")
        store.execute("INSERT INTO delivery VALUES ('abc/traces', 'http://gone:4318/v1/traces', 1, 'refused')")
    assert cli.main(["doctor", "--home", str(filled)]) == 1
    assert "4 items wait for http://gone:4318/v1/traces, which is not set here" in capsys.readouterr().out


@pytest.mark.alone  # the program has to be under way when its time is over
def test_run_for_a_time_stops_the_program_and_reports(home, capfd):
    """GIVEN a program that does not end WHEN its time is over THEN it ends as under a service manager, all stored."""
    code = (
        "import time; from opentelemetry import trace\n"
        "with trace.get_tracer('t').start_as_current_span('done'): pass\n"
        "time.sleep(60)"
    )
    assert cli.main(["run", "--for", "5s", sys.executable, "-c", code]) == 0
    said = capfd.readouterr().err
    assert "otel-perf run: stopped after 5 s, as --for says" in said
    assert "done" in said


def test_run_for_a_time_that_is_not_needed_passes_on_the_status(home, capfd):
    assert cli.main(["run", "--for", "60s", "--no-report", sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.parametrize(
    ("answer", "status"), [("signal.SIG_DFL", 0), ("lambda *_: sys.exit(4)", 4), ("signal.SIG_IGN", -9)]
)
def test_a_program_whose_time_is_over_is_asked_and_then_made_to_end(answer, status, monkeypatch, capfd):
    monkeypatch.setattr(run_command, "_PATIENCE", 10.0 if status >= 0 else 0.1)
    code = (
        f"import signal, sys, time; signal.signal(signal.SIGTERM, {answer}); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        assert run_command._wait(child, 0.01) == status
    assert ("did not end within" in capfd.readouterr().err) == (status < 0)


def test_doctor_sends_a_test_span_and_says_in_which_trace(home, capsys, monkeypatch):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from tests.store.receiver import Receiver

    monkeypatch.setattr(doctor, "_has", lambda package: package.startswith("opentelemetry"))
    receiver = Receiver()
    with receiver.running():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    (body,) = [body for path, _, body in receiver.requests if path == "/v1/traces"]
    (span,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert span.name == "otel-perf doctor: test"
    assert f"200 OK; test span in trace {span.trace_id.hex()}" in out


class Screen:
    def __init__(self):
        self.written = ""

    def isatty(self):
        return True

    def write(self, text):
        self.written += text

    def flush(self):
        pass


def test_long_work_shows_how_far_it_is_and_leaves_no_trace(monkeypatch):
    from otel_perf.cli import progress

    screen, clock = Screen(), iter(range(10_000))
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) * 0.1)
    assert list(progress.watched(range(200), "spans read", 200)) == list(range(200))
    assert "spans read: 5 of 200 (2%, 20 s left)" in screen.written
    assert screen.written.endswith("\r\x1b[K")


def test_in_a_pipe_or_when_it_is_quick_nothing_is_shown(monkeypatch, capsys):
    from otel_perf.cli import progress

    assert list(progress.watched(range(200), "spans read")) == list(range(200))
    assert capsys.readouterr().err == ""
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    assert list(progress.watched(range(5), "spans read")) == list(range(5))
    assert screen.written == ""
