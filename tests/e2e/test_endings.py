"""However a program ends, its finished spans are stored and its exit status is what it was without us."""

import signal
import subprocess
import sys

import pytest

from tests.e2e import programs
from tests.e2e.support import free_port, wait_for
from tests.stored import logs, points, spans

HEAD = """
import logging, os, signal, sys, threading, time, atexit
from opentelemetry import trace, metrics
tracer = trace.get_tracer("t")
metrics.get_meter("m").create_counter("made").add(5)
for number in range(5):
    with tracer.start_as_current_span(f"span {number}"):
        logging.getLogger("app").debug("quiet")
print("made", flush=True)
"""

ENDINGS = {
    "return": "",
    "sys.exit": "sys.exit(7)",
    "sys.exit text": "sys.exit('sorry')",
    "exception": "raise LookupError('end')",
    "keyboard interrupt": "signal.raise_signal(signal.SIGINT)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
    "SIGTERM while the main thread waits": (
        "threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start(); threading.Event().wait(30)"
    ),
    "SIGHUP": "os.kill(os.getpid(), signal.SIGHUP); time.sleep(30)",
    "SIGTERM with a handler": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); signal.raise_signal(signal.SIGTERM)",
    "SIGTERM ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.raise_signal(signal.SIGTERM); sys.exit(9)",
    "os._exit": "os._exit(5)",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit 6'])",
    "exec with environment": "os.execvpe('sh', ['sh', '-c', 'exit 8'], {'PATH': '/bin:/usr/bin'})",
    "thread fails": "t = threading.Thread(target=lambda: 1/0); t.start(); t.join()",
    "daemon thread runs on": "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
    "exit handler fails": "atexit.register(lambda: 1/0)",
    "SIGTERM with a handler that calls the one it found": (
        "before = signal.getsignal(signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, lambda n, f: (callable(before) and before(n, f), print('cleaned'), sys.exit(0)))\n"
        "signal.raise_signal(signal.SIGTERM)"
    ),
    "interrupt in a hook of the app's": (
        "sys.excepthook = lambda *a: print('mine', file=sys.stderr); signal.raise_signal(signal.SIGINT)"
    ),
    "interrupt that a console handled": "sys.last_type = KeyboardInterrupt; sys.last_value = KeyboardInterrupt()",
    "hook replaced": "sys.excepthook = lambda *a: print('mine', file=sys.stderr); raise LookupError('end')",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_finished_spans_are_stored_and_the_status_is_the_same(home, ending):
    ours, plain = programs.both(HEAD + ENDINGS[ending], home)
    assert ours == plain
    assert ours.out.startswith("made\n")
    assert [span.name for span in spans(home)] == [f"span {number}" for number in range(5)]
    assert {point.value for point in points(home) if point.name == "made"} == {5}
    if ending in {"exception", "thread fails", "hook replaced"}:
        assert [entry.event_name for entry in logs(home)] == ["perf.uncaught_error"]


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)"])
def test_somebody_elses_exporter_that_hangs_costs_us_nothing(home, ending):
    program = """
from opentelemetry.sdk.trace import SpanProcessor
class Hanging(SpanProcessor):
    def force_flush(self, timeout_millis=30000): time.sleep(30)
trace.get_tracer_provider().add_span_processor(Hanging())
"""
    programs.run(HEAD + program + ending, home)
    assert len(spans(home)) == 5
    assert {point.value for point in points(home) if point.name == "made"} == {5}


def test_spans_of_an_exit_handler_are_stored(home):
    program = HEAD + "atexit.register(lambda: tracer.start_span('last').end())"
    assert programs.run(program, home).status == 0
    assert spans(home)[-1].name == "last"


def test_a_kill_loses_at_most_the_delay(home):
    """GIVEN spans older than OTEL_PERF_STORE_DELAY WHEN the program is killed THEN they are all there."""
    program = HEAD + "time.sleep(60)"
    environ = programs.environment(home, OTEL_PERF_STORE_DELAY="50ms")
    with subprocess.Popen(programs.command(program), env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "made\n"
            wait_for(lambda: len(spans(home)) == 5, what="the spans within their delay")
        finally:
            process.kill()
    assert len(spans(home)) == 5


SERVER = """
import logging, sys, uvicorn
from opentelemetry import trace
tracer = trace.get_tracer("t")
async def app(scope, receive, send):
    if scope["type"] == "http":
        with tracer.start_as_current_span(scope["path"]):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", loop=sys.argv[2])
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_keeps_its_ending(home, number, loop):
    """uvicorn restores the handlers that it found and raises the signal again, so that atexit never runs."""
    import urllib.request

    statuses = []
    for instrumented in (True, False):
        port = free_port()
        command = programs.command(SERVER, str(port), loop, instrumented=instrumented)
        process = subprocess.Popen(command, env=programs.environment(home), stderr=subprocess.DEVNULL)
        try:

            def answers(port=port):
                try:
                    return urllib.request.urlopen(f"http://127.0.0.1:{port}/x", timeout=5).status == 200
                except OSError:
                    return False

            wait_for(answers)
            assert answers()
            process.send_signal(number)
            statuses.append(process.wait(20))
        finally:
            process.kill()
            process.wait()
    assert statuses[0] == statuses[1]
    assert len(spans(home)) == 2


def test_a_signal_that_comes_while_we_hold_our_own_locks_ends_the_program(home):
    """A storm of spans in the main thread, a SIGTERM in the middle: no deadlock, same status."""
    program = (
        HEAD
        + "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()\nwhile True: tracer.start_span('x').end()"
    )
    done = programs.run(program, home, timeout=30)
    assert done.status == -signal.SIGTERM
    assert len(spans(home)) > 5


MULTIPROCESSING = """
import multiprocessing, sys
from opentelemetry import trace
def work(number):
    with trace.get_tracer("t").start_as_current_span(f"child {number}"):
        return number
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    processes = [context.Process(target=work, args=(n,)) for n in range(4)]
    for p in processes: p.start()
    for p in processes: p.join()
    with context.Pool(2) as pool:
        print(sorted(pool.map(work, range(10, 20))))
    print([p.exitcode for p in processes])
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_children_keep_their_spans(home, tmp_path, method):
    path = tmp_path / "program.py"
    path.write_text(MULTIPROCESSING)
    outputs = []
    for start in ([str(programs.BIN / "opentelemetry-instrument")], []):
        done = subprocess.run(
            [*start, sys.executable, str(path), method],
            env=programs.environment(home), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        outputs.append((done.stdout, done.stderr))
    assert outputs[0] == outputs[1]
    names = sorted(span.name for span in spans(home))
    assert names == sorted([f"child {n}" for n in range(4)] + [f"child {n}" for n in range(10, 20)])


LATE = """
import multiprocessing, os, signal, sys, threading, time

def send():
    # To a thread that is not the main one: as a signal that came before the main thread's system call, it is noted and
    # interrupts nothing.
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def wait(lock, prepare):
    if prepare:
        exec(prepare, globals())
    lock.acquire()
    threading.Thread(target=send).start()
    lock.acquire()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    prepare = sys.argv[2] if len(sys.argv) > 2 else ""
    lock = context.Lock()
    process = context.Process(target=wait, args=(lock, prepare))
    process.start()
    process.join(3 if prepare else 20)
    print("exit code", process.exitcode)
    process.kill()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_sigterm_ends_a_child_that_has_just_begun_to_wait_in_c(home, tmp_path, method):
    """GIVEN a signal that Python has noted WHEN the main thread waits in C and was not interrupted THEN it ends."""
    done = late(home, tmp_path, method)
    assert (done.stdout, done.stderr) == ("exit code -15\n", "")


INHERITED = """
import asyncio, multiprocessing, signal, threading, time

def send():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def wait(lock):
    lock.acquire()
    threading.Thread(target=send).start()
    lock.acquire()

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)  # the loop has a descriptor for signals
    context = multiprocessing.get_context("fork")
    process = context.Process(target=wait, args=(context.Lock(),))
    process.start()
    await asyncio.to_thread(process.join, 20)
    print("exit code", process.exitcode)
    process.kill()

asyncio.run(main())
"""


def test_sigterm_ends_such_a_child_of_an_asyncio_program(home):
    """GIVEN a parent whose loop is told of signals, and a child that has inherited its descriptor."""
    done = programs.run(INHERITED, home)
    assert (done.out, done.err) == ("exit code -15\n", "")


OWN_HANDLER = "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))"
ONCE = """
before = signal.getsignal(signal.SIGTERM)
def once(number, frame):
    signal.signal(signal.SIGTERM, before)
    print("handled", flush=True)
signal.signal(signal.SIGTERM, once)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
os._exit(3)
"""
CLOSED = """
os.closerange(3, 1000)
time.sleep(0.5)
signal.signal(signal.SIGUSR1, lambda *_: None)
files = [open(os.path.expanduser(f"{os.environ['OTEL_PERF_HOME']}.{n}"), "w+b", buffering=0) for n in range(300)]
os.kill(os.getpid(), signal.SIGUSR1)
print([file.read() for file in files if not file.seek(0)] == [b""] * 300, flush=True)
os._exit(3)
"""
OWN_DESCRIPTOR = """
assert signal.set_wakeup_fd(-1) != -1  # else this test shows nothing
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
"""


@pytest.mark.parametrize("prepare", [OWN_HANDLER, OWN_DESCRIPTOR], ids=["handler", "descriptor"])
def test_signals_that_are_the_apps_own_come_as_they_do_without_us(home, tmp_path, prepare):
    """GIVEN a child with a handler or a descriptor of its own THEN a late signal is as late as without us."""
    done = late(home, tmp_path, "fork", prepare)
    assert (done.stdout, done.stderr) == ("exit code None\n", "")


GRANDCHILD = """
import multiprocessing, os, signal, time

def work():
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_BLOCK, ())
        time.sleep(60)
        os._exit(0)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    print("grandchild", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    time.sleep(0.5)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    print("child", process.exitcode)
"""


def test_a_grandchilds_signal_is_not_its_parents(home):
    """GIVEN a child that watches its signals WHEN one that it forked gets SIGTERM THEN the child goes on."""
    done = programs.run(GRANDCHILD, home)
    assert (done.out, done.err) == ("grandchild -15\nchild 0\n", "")


def test_a_signal_that_the_app_has_handled_is_not_handled_again(home, tmp_path):
    """GIVEN a handler that serves once and puts ours back WHEN it has THEN the child goes on."""
    done = late(home, tmp_path, "fork", ONCE)
    assert (done.stdout, done.stderr) == ("handled\nexit code 3\n", "")


def test_a_child_that_closes_all_descriptors_finds_nothing_in_its_own(home, tmp_path):
    """GIVEN a daemon, which closes what it has inherited WHEN a signal comes THEN none of its files has our byte."""
    done = late(home, tmp_path, "fork", CLOSED)
    assert (done.stdout, done.stderr) == ("True\nexit code 3\n", "")


def late(home, tmp_path, *arguments):
    """The program LATE, run with us."""
    path = tmp_path / "program.py"
    path.write_text(LATE)
    return subprocess.run(
        [str(programs.BIN / "opentelemetry-instrument"), sys.executable, str(path), *arguments],
        env=programs.environment(home), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


FORKS = """
import os, signal, sys, time
lost = 0
for _ in range(200):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.0002)
    if ended[0] != child:
        lost += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif ended[1] != signal.SIGTERM:
        print("ended with", ended[1])
    if lost == 2:
        break
print("lost", lost)
"""


def test_sigterm_reaches_a_child_that_was_just_forked(home):
    """As ``Pool.terminate`` sends it, once, to workers that may not have run yet."""
    done = programs.run(FORKS, home, timeout=120)
    assert done.out.splitlines() == ["lost 0"]
