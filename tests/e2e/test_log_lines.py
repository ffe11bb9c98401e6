"""Programs under OTEL_PERF_LOGS_FORMAT=json: every line they log is one valid line, and theirs stay without it."""

import sys

import pytest

from tests.e2e import programs, support
from tests.e2e.test_logging_setups import HEAD, SETUPS
from tests.log_lines import check_all
from tests.stored import logs

JSON = {"OTEL_PERF_LOGS_FORMAT": "json"}


@pytest.mark.parametrize("setup", SETUPS)
def test_every_line_is_valid_however_the_app_configures_logging(home, setup):
    done = programs.run(HEAD + SETUPS[setup], home, **JSON)
    plain = programs.run(HEAD + SETUPS[setup], home, instrumented=False)
    assert done.status == 0
    if setup == "root handlers are counted":
        assert done.out == plain.out
        return
    lines = check_all(done.err + done.out)
    exported = [entry.body for entry in logs(home)]
    assert lines
    assert all(line["body"] in exported for line in lines)
    if setup not in {"never configured", "wrong arguments"}:  # these print tracebacks as well
        assert len(lines) == len((plain.err + plain.out).splitlines())


def test_children_write_valid_lines(home):
    program = """
import logging, multiprocessing, os
def work(number): logging.getLogger("shop").warning("work %d", number, extra={"pid": os.getpid()})
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(work, range(10))
"""
    (home.parent / "app.py").write_text(program)
    command = ["opentelemetry-instrument", sys.executable, "app.py"]
    with support.Running(
        [str(programs.BIN / command[0]), *command[1:]],
        programs.environment(home, **JSON),
        home.parent,
        home.parent / "out",
    ) as running:
        assert running.wait(60) == 0
    lines = check_all(running.output())
    bodies = [line["body"] for line in lines if line["scope.name"] == "shop"]
    assert sorted(bodies) == sorted(f"work {number}" for number in range(10) for _ in range(2))
    assert all(line["attributes"]["pid"] == line["process.pid"] for line in lines if line["scope.name"] == "shop")


def test_an_app_at_the_end_of_its_stack_gets_lines_until_there(home):
    program = """
import logging, sys
log = logging.getLogger("deep")
def descend(depth):
    log.warning("at %d", depth)
    descend(depth + 1)
try:
    descend(0)
except RecursionError:
    log.warning("caught")
"""
    done = programs.run(program, home, **JSON)
    assert done.status == 0
    bodies = [line["body"] for line in check_all(done.err) if line["scope.name"] == "deep"]
    assert bodies[:-1] == [f"at {number}" for number in range(len(bodies) - 1)]
    assert bodies[-1] == "caught"
    assert len(bodies) > 900


UVICORN = """
import logging
log = logging.getLogger("shop")
async def app(scope, receive, send):
    assert scope["type"] == "http"
    log.warning("serving %s", scope["path"])
    if scope["path"] == "/fail":
        raise ValueError("token=hunter2Zq")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def test_a_real_server_writes_nothing_but_valid_lines(home, tmp_path):
    import urllib.error
    import urllib.request

    (tmp_path / "app.py").write_text(UVICORN)
    port = support.free_port()
    command = [
        "opentelemetry-instrument",
        str(programs.BIN / "uvicorn"),
        "app:app",
        "--lifespan",
        "off",
        "--port",
        str(port),
    ]
    environ = programs.environment(home, PYTHONPATH=tmp_path, **JSON)
    running = support.Running([str(programs.BIN / command[0]), *command[1:]], environ, tmp_path, tmp_path / "out")
    with running:
        running.wait_until_listening(port)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/a?password=hunter2Zq", timeout=10).close()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/fail", timeout=10)
        running.stop()
    lines = check_all(running.output())
    assert "hunter2Zq" not in running.output()
    by_logger = {name: [line for line in lines if line["scope.name"] == name] for name in ("uvicorn.access", "shop")}
    assert [line["body"] for line in by_logger["shop"]] == ["serving /a", "serving /fail"]
    assert "GET /a?password=[redacted] HTTP/1.1" in by_logger["uvicorn.access"][0]["body"]
    (failure,) = [line for line in lines if line.get("exception.type")]
    assert (failure["scope.name"], failure["exception.type"]) == ("uvicorn.error", "ValueError")
    assert failure["exception.message"] == "token=[redacted]"
