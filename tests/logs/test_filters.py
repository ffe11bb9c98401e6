"""Rules drop what they say and nothing else, and every line is accounted for."""

import logging
import os
import random
import signal
import threading
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import SpanContext

from otel_perf import monitored
from otel_perf.core import cleaning
from otel_perf.core.events import FOLDED
from otel_perf.core.served import Request, request
from otel_perf.logs import filters
from otel_perf.logs.accounts import DROPPED
from otel_perf.logs.correlation import TRACE_ID
from otel_perf.logs.filters import keep_line
from otel_perf.testing import FixedClock
from tests import alarms
from tests.core.test_rollout import write_flags
from tests.stored import logs, points


class Keep(logging.Handler):
    """What reaches the app's handlers."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def texts(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept():
    handler = Keep()
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def said():
    """The lines that sum up."""
    handler = Keep()
    logging.getLogger("otel_perf").addHandler(handler)
    yield handler
    logging.getLogger("otel_perf").removeHandler(handler)


@pytest.fixture
def clock(monkeypatch):
    """The time of buckets and windows stands still, until it is told to move."""
    fixed = FixedClock()
    monkeypatch.setattr(filters, "SYSTEM_CLOCK", fixed)
    return fixed


def shop():
    return logging.getLogger("shop")


def say(number=1):
    """So many lines that are alike, of one place."""
    for _ in range(number):
        shop().info("x")


def accounts():
    """What the filters counted: kept, and lost by reason."""
    found = filters._active.accounts
    lost = Counter()
    for (reason, _), number in found.lost().items():
        lost[reason] += number
    return found.kept, dict(lost)


def run_task(name):
    (task,) = [task for task in cleaning.tasks if name in task.name]
    for _ in task.run() or ():
        pass


# --- levels ---------------------------------------------------------------------------------------


def test_without_rules_nothing_is_patched_or_dropped(start, kept):
    before = logging.Logger.isEnabledFor
    start()
    assert logging.Logger.isEnabledFor is before
    for _ in range(1000):
        shop().debug("x")
    assert len(kept.records) == 1000
    assert [task for task in cleaning.tasks if task.name.startswith("otel_perf.logs")] == []


def test_a_line_below_its_loggers_level_is_dropped_before_its_record_is_made(start, kept):
    before = logging.Logger.isEnabledFor
    pipeline = start(OTEL_PERF_LOGS_LEVELS="shop.db=WARNING")
    factory, made = logging.getLogRecordFactory(), []

    def counting(*args, **kwargs):
        made.append(args)
        return factory(*args, **kwargs)

    logging.setLogRecordFactory(counting)
    try:
        logging.getLogger("shop.db.pool").info("no")
        assert made == []
        logging.getLogger("shop.db.pool").warning("yes")
        shop().info("yes")
    finally:
        logging.setLogRecordFactory(factory)
    assert not logging.getLogger("shop.db").isEnabledFor(logging.INFO)
    assert kept.texts == ["yes", "yes"]
    assert accounts() == (2, {"level": 2})  # a question stands for the line that is then not made
    pipeline.shutdown()
    assert logging.Logger.isEnabledFor is before
    assert logging.getLogger("shop.db").isEnabledFor(logging.INFO)


def test_the_apps_own_levels_come_first_and_what_they_drop_is_not_counted(start, kept):
    start(OTEL_PERF_LOGS_LEVELS="shop=INFO")
    shop().setLevel(logging.ERROR)
    shop().warning("the app does not want it")
    assert accounts() == (0, {})
    shop().setLevel(logging.DEBUG)  # which empties logging's own cache
    shop().warning("now it does")
    shop().debug("we do not want it")
    logging.disable(logging.WARNING)
    try:
        shop().warning("disabled")
        shop().debug("disabled")
    finally:
        logging.disable(logging.NOTSET)
    assert kept.texts == ["now it does"]
    assert accounts() == (1, {"level": 1})


def test_records_that_nobody_asked_about_are_held_to_the_levels_too(start, kept):
    start(OTEL_PERF_LOGS_LEVELS="shop=WARNING")
    for level in (logging.INFO, logging.WARNING):
        shop().handle(logging.makeLogRecord({"name": "shop", "msg": "x", "levelno": level, "levelname": "L"}))
    assert len(kept.records) == 1
    assert accounts() == (1, {"level": 1})


def test_a_patch_on_top_of_ours_stays_and_ours_lets_all_pass(start, kept):
    before = logging.Logger.isEnabledFor
    pipeline = start(OTEL_PERF_LOGS_LEVELS="shop=ERROR")
    ours = logging.Logger.isEnabledFor

    def theirs(self, level):
        return ours(self, level)

    logging.Logger.isEnabledFor = theirs
    try:
        pipeline.shutdown()
        assert logging.Logger.isEnabledFor is theirs
        shop().info("x")
        assert kept.texts == ["x"]
    finally:
        logging.Logger.isEnabledFor = before


# --- rates ----------------------------------------------------------------------------------------


def test_each_template_has_its_bucket(start, kept, clock):
    start(OTEL_PERF_LOGS_RATE="5/s")
    for pause in (0.0, 0.41):
        clock.advance(pause)
        for number in range(100):
            shop().info("taken %d", number)
            shop().info("given %d", number)
    assert Counter(record.msg for record in kept.records) == {"taken %d": 7, "given %d": 7}
    assert accounts() == (14, {"rate": 386})


@pytest.mark.parametrize("burst", [1, 5, 100])
def test_texts_that_are_put_together_before_share_the_bucket_of_their_place(start, kept, clock, burst):
    start(OTEL_PERF_LOGS_RATE=f"{burst}/s")
    for number in range(1000):
        shop().info(f"order {number} taken")
    assert len(kept.records) == burst
    clock.advance(1.0)
    for number in range(1000):
        shop().info(f"order {number} taken")  # another place
    assert len(kept.records) == 2 * burst


def test_a_function_that_logs_for_others_has_a_bucket_for_each_of_their_texts(start, kept, clock):
    def tell(text, *args):
        shop().warning(text, *args)

    start(OTEL_PERF_LOGS_RATE="5/s")
    for number in range(100):
        tell("cache is full")
        tell("no answer from %s", number)
    tell("disk is broken")
    assert Counter(record.msg for record in kept.records) == {
        "cache is full": 5,
        "no answer from %s": 5,
        "disk is broken": 1,
    }


def test_one_place_that_logs_at_several_levels_has_a_bucket_for_each(start, kept, clock):
    start(OTEL_PERF_LOGS_RATE="5/s")
    for level in [logging.DEBUG] * 100 + [logging.WARNING] * 3:
        shop().log(level, "x")
    assert Counter(record.levelno for record in kept.records) == {logging.DEBUG: 5, logging.WARNING: 3}


def test_odd_messages_are_held_to_the_rate_too(start, kept, clock):
    class Odd:
        __hash__ = None

        def __eq__(self, other):
            raise RuntimeError

        def __str__(self):
            return "odd %s"

    start(OTEL_PERF_LOGS_RATE="5/s")
    for number in range(100):
        shop().info(Odd(), number)
        shop().info(Odd())
        shop().info({"event": number})
        shop().info("x" * 5000 + str(number))
    assert len(kept.records) == 20


# --- errors and audits ------------------------------------------------------------------------------


def test_errors_and_audits_are_beyond_rates_folding_and_sampling(start, kept, clock):
    start(OTEL_PERF_LOGS_RATE="1/h", OTEL_PERF_LOGS_FOLD="1h", OTEL_PERF_LOGS_SAMPLE="INFO=0,WARNING=0")
    for _ in range(100):
        shop().error("failed")
        shop().critical("failed")
        logging.getLogger("shop.audit.roles").info("role changed")
        shop().warning("x")
    assert Counter(record.levelno for record in kept.records) == {40: 100, 50: 100, 20: 100}
    assert accounts() == (300, {"sample": 100})


# --- folding ----------------------------------------------------------------------------------------


def test_lines_that_are_alike_are_folded_into_one(start, kept, clock, home):
    pipeline = start(OTEL_PERF_LOGS_FOLD="10s")
    with trace.get_tracer("t").start_as_current_span("s"):
        for _ in range(50):
            shop().warning("no answer from %s", "db")
    shop().warning("no answer from %s", "cache")
    assert kept.texts == ["no answer from db", "no answer from cache"]
    run_task("folded")
    assert len(kept.records) == 2, "their time is not over"
    clock.advance(10.0)
    run_task("folded")
    first, _, line = kept.records
    assert line.getMessage().startswith("no answer from db (repeated: 49 more, 20")
    assert (line.name, line.levelno, line.lineno, line.funcName) == ("shop", 30, first.lineno, first.funcName)
    assert line.__dict__[FOLDED] == 49
    assert line.__dict__["perf.log.first"] <= line.__dict__["perf.log.last"]
    assert line.__dict__[TRACE_ID] == "0", "it may be of many traces"
    assert accounts() == (2, {"fold": 49})
    shop().warning("no answer from %s", "db")
    assert kept.texts[3:] == ["no answer from db"]
    pipeline.shutdown()
    assert len(kept.records) == 4, "nothing was folded since"
    assert [entry.attributes.get(FOLDED) for entry in logs(home) if entry.scope == "shop"] == [None, None, 49, None]


def test_a_line_that_comes_after_its_window_closes_it(start, kept, clock):
    start(OTEL_PERF_LOGS_FOLD="10s")
    for pause in (0, 1, 9, 0):
        clock.advance(pause)
        shop().info("x")
    assert [text.partition(":")[0] for text in kept.texts] == ["x", "x (repeated", "x"]
    assert accounts() == (2, {"fold": 2})


def test_a_folded_line_is_not_of_the_request_that_closes_its_window(start, kept, clock):
    start(OTEL_PERF_LOGS_FOLD="10s")
    say(3)
    clock.advance(10.0)
    served = Request(Context())
    served.span = SpanContext(7, 8, is_remote=False)
    token = request.set(served)
    try:
        say()
    finally:
        request.reset(token)
    assert [(record.__dict__.get(FOLDED), record.__dict__[TRACE_ID]) for record in kept.records] == [
        (None, "0"), (2, "0"), (None, f"{7:032x}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "different",
    [
        lambda number: shop().info("x", extra={"order": number}),
        lambda number: shop().info("x", exc_info=ValueError(number)),
        lambda number: logging.getLogger(f"shop.{number}").info("x"),
        lambda number: shop().log(20 + number, "x"),
        lambda number: shop().info("x %s", number),
    ],
    ids=["extra", "exception", "logger", "level", "argument"],
)
def test_lines_that_differ_are_not_folded(start, kept, clock, different):
    start(OTEL_PERF_LOGS_FOLD="10s")
    for number in (1, 2, 1):
        different(number)
    assert len(kept.records) == 2


def test_lines_that_cannot_be_compared_are_not_folded(start, kept, clock):
    class Odd:
        def __str__(self):
            raise RuntimeError

        __repr__ = __str__

    start(OTEL_PERF_LOGS_FOLD="10s", OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION="false")
    shop().propagate = False  # pytest's own handler would raise
    try:
        for _ in range(3):
            shop().info("x %s", Odd())
            shop().info("y", extra={"odd": Odd()})
            shop().info("wrong %d", "z")
    finally:
        shop().propagate = True
    assert len(kept.records) == 9


def test_what_was_folded_is_said_at_the_end(start, kept, said, clock):
    pipeline = start(OTEL_PERF_LOGS_FOLD="10s")
    say(3)
    pipeline.flush()
    assert kept.records[-1].__dict__[FOLDED] == 2
    say(2)
    pipeline.shutdown()
    assert kept.records[-1].__dict__[FOLDED] == 1
    lines = [record.__dict__["perf.log.folded"] for record in said.records]
    assert lines == [2, 1]


def test_a_folded_line_is_not_held_back_by_the_rate(start, kept, clock):
    start(OTEL_PERF_LOGS_FOLD="10s", OTEL_PERF_LOGS_RATE="1/h")
    say(3)
    clock.advance(10.0)
    run_task("folded")
    say()
    assert [FOLDED in record.__dict__ for record in kept.records] == [False, True]
    assert accounts() == (1, {"fold": 2, "rate": 1})


# --- sampling ---------------------------------------------------------------------------------------


def test_a_traces_lines_are_kept_or_dropped_together_as_a_ratio_sampler_would(start, kept):
    start(OTEL_PERF_LOGS_SAMPLE="INFO=30%,DEBUG=10%")
    sampler, tracer = {20: TraceIdRatioBased(0.3), 10: TraceIdRatioBased(0.1)}, trace.get_tracer("t")
    wanted = []
    for _ in range(200):
        with tracer.start_as_current_span("a") as span:
            number = span.get_span_context().trace_id
            for level in (10, 20, 30):
                if level == 30 or sampler[level].should_sample(None, number, "a").decision is not Decision.DROP:
                    wanted += [(f"{number:032x}", level)] * 2
            for level in (10, 20, 30):
                for _ in range(2):
                    with tracer.start_as_current_span("b"):
                        shop().log(level, "x")
    assert [(record.__dict__[TRACE_ID], record.levelno) for record in kept.records] == wanted
    assert 400 < len(wanted) < 800


def test_a_trace_that_a_ratio_sampler_keeps_has_its_lines(start, kept):
    start(OTEL_PERF_LOGS_SAMPLE="INFO=10%", OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.1")
    for _ in range(300):
        with trace.get_tracer("t").start_as_current_span("a") as span:
            shop().info("x", extra={"sampled": span.get_span_context().trace_flags.sampled})
    assert all(record.sampled for record in kept.records)
    assert 5 < len(kept.records) < 80
    assert accounts()[0] + accounts()[1]["sample"] == 300


def test_without_a_trace_it_is_chance_and_not_the_apps(start, kept):
    start(OTEL_PERF_LOGS_SAMPLE="INFO=50%")
    random.seed(7)
    state = random.getstate()
    for _ in range(400):
        shop().info("x")
    assert random.getstate() == state
    assert 120 < len(kept.records) < 280


def test_a_dropped_line_leaves_a_lazy_span_lazy(start, kept):
    @monitored
    def work():
        shop().debug("x")
        return trace.get_current_span().is_lazy

    start(OTEL_PERF_LOGS_SAMPLE="DEBUG=0%")
    with trace.get_tracer("t").start_as_current_span("request"):
        assert work()
    assert kept.records == []
    assert accounts() == (0, {"sample": 1})


def test_a_warning_with_an_exception_belongs_to_the_trace_that_raised_it(start, kept):
    start(OTEL_PERF_LOGS_SAMPLE="WARNING=50%")
    wanted = 0
    for _ in range(100):
        try:
            with trace.get_tracer("t").start_as_current_span("a") as span:
                raise ValueError
        except ValueError:
            shop().warning("x", exc_info=True)
        wanted += span.get_span_context().trace_id & (2**64 - 1) < 2**63
    assert len(kept.records) == wanted


# --- where lines go ---------------------------------------------------------------------------------


def test_a_dropped_line_reaches_neither_handlers_nor_the_export(start, kept, home, clock):
    pipeline = start(OTEL_PERF_LOGS_RATE="2/s")
    for number in range(10):
        shop().warning("x %d", number)
    pipeline.shutdown()
    assert kept.texts == ["x 0", "x 1"]
    assert [entry.body for entry in logs(home) if entry.scope == "shop"] == ["x 0", "x 1"]


def test_a_record_that_came_from_elsewhere_was_decided_there(start, kept, clock):
    start(OTEL_PERF_LOGS_RATE="1/h", OTEL_PERF_LOGS_LEVELS="shop=ERROR")
    for _ in range(3):
        shop().handle(
            logging.makeLogRecord({"name": "shop", "msg": "x", "levelno": 20, "process": 1, TRACE_ID: "ab" * 16})
        )
    assert len(kept.records) == 3
    assert accounts() == (0, {})


def test_lines_of_other_libraries_are_held_to_the_same_rules(start, clock, kept):
    start(
        OTEL_PERF_LOGS_LEVELS="lib.noisy=ERROR",
        OTEL_PERF_LOGS_RATE="5/s",
        OTEL_PERF_LOGS_FOLD="10s",
        OTEL_PERF_LOGS_SAMPLE="DEBUG=0",
    )
    assert not keep_line("lib.noisy", 30, "x", ("a.py", 1))
    assert not keep_line("lib", 10, "x", ("a.py", 2))
    assert [keep_line("lib", 20, f"number {number}", ("a.py", 3)) for number in range(9)] == [True] * 5 + [False] * 4
    assert [keep_line("lib", 20, event, ("a.py", 4)) for event in "ab" * 6].count(True) == 10
    assert [keep_line("lib", 20, "same", ("a.py", 5), "same order=1") for _ in range(3)] == [True, False, False]
    assert keep_line("lib", 20, "same", ("a.py", 5), "same order=2")
    assert all(keep_line("lib", 40, "error", ("a.py", 6)) for _ in range(50))
    assert accounts() == (5 + 10 + 2 + 50, {"level": 1, "sample": 1, "rate": 6, "fold": 2})


def test_without_the_feature_every_line_is_kept():
    assert keep_line("lib", 0, "x", ("a.py", 1))
    assert filters.keep(logging.makeLogRecord({}))
    filters.last_words()


@pytest.mark.usefixtures("absorbing")
def test_an_internal_error_costs_no_line(start, kept, monkeypatch):
    pipeline = start(OTEL_PERF_LOGS_LEVELS="shop=INFO")
    monkeypatch.setattr(filters.Filters, "decide", lambda *_: 1 / 0)
    monkeypatch.setattr(filters.Filters, "is_level_kept", lambda *_: 1 / 0)
    shop().info("still here")
    assert kept.texts == ["still here"]
    assert pipeline.guards["logs"].errors >= 2, "its own line passes there too"


# --- what is said of it -----------------------------------------------------------------------------


def test_a_line_sums_up_what_was_dropped_and_only_then(start, kept, said, clock):
    start(OTEL_PERF_LOGS_RATE="5/s", OTEL_PERF_LOGS_LEVELS="shop.db=ERROR")
    run_task("dropped")
    assert said.records == []
    for number in range(100):
        shop().info("taken %d", number)
        logging.getLogger("shop.db").info("x")
    run_task("dropped")
    run_task("dropped")
    (line,) = said.records
    text = line.getMessage()
    assert "200 log lines in" in text
    assert (
        "5 kept, 195 dropped (100 by level, 95 by rate), 0 folded; most of shop.db 100, 'taken %d' (test_filters.py:"
        in text
    )
    found = {key: value for key, value in line.__dict__.items() if key.startswith("perf.log.")}
    assert found == {
        "perf.log.made": 200,
        "perf.log.kept": 5,
        "perf.log.folded": 0,
        "perf.log.dropped.level": 100,
        "perf.log.dropped.rate": 95,
    }
    shop().info("kept")
    for number in range(10):
        shop().info("other %d", number)
    run_task("dropped")
    assert "11 log lines in" in said.records[1].getMessage()


def test_the_metric_counts_by_reason_and_level(start, kept, clock, home):
    pipeline = start(OTEL_PERF_LOGS_RATE="1/h", OTEL_PERF_LOGS_LEVELS="shop.db=ERROR")
    for level in (10, 20, 25, 5, 30):
        for _ in range(3):
            shop().log(level, "x")
    logging.getLogger("shop.db").warning("x")
    pipeline.shutdown()
    found = {
        (point.attributes["perf.log.reason"], point.attributes["perf.log.level"]): point.value
        for point in points(home)
        if point.name == DROPPED.name
    }
    # one place: DEBUG, INFO, 25 and WARNING have a bucket each; 5 is below the logger's own level
    assert found == {("rate", "DEBUG"): 2, ("rate", "INFO"): 4, ("rate", "WARNING"): 2, ("level", "WARNING"): 1}


def test_the_line_at_the_end_does_not_wait_for_a_handler_that_is_at_work(start, kept, said):
    """GIVEN a signal that interrupted a handler WHEN everything is flushed THEN its lock is not waited for."""
    pipeline = start(OTEL_PERF_LOGS_FOLD="1h")
    say(2)
    held, done = threading.Event(), threading.Event()

    def at_work():
        with said.lock, kept.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=at_work)
    thread.start()
    held.wait(30)
    pipeline.flush()
    assert (len(kept.records), len(said.records)) == (1, 0)
    done.set()
    thread.join()
    pipeline.flush()
    assert (len(kept.records), len(said.records)) == (2, 1)


# --- threads, signals, forks ------------------------------------------------------------------------


def test_drops_add_up_over_threads(start, kept, said):
    pipeline = start(
        OTEL_PERF_LOGS_RATE="20/s",
        OTEL_PERF_LOGS_FOLD="50ms",
        OTEL_PERF_LOGS_SAMPLE="INFO=50%",
        OTEL_PERF_LOGS_LEVELS="shop.db=ERROR",
    )
    threads, rounds = 8, 250

    def work(number):
        for turn in range(rounds):
            shop().info("same")
            shop().warning("same")
            shop().warning(f"different {number} {turn}")
            shop().warning("argument %d", turn)
            shop().error("failed")
            logging.getLogger("shop.db").warning("x")

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    pipeline.shutdown()
    check(kept, said, made=6 * threads * rounds, errors=threads * rounds)


def check(kept, said, made, errors):
    """kept + dropped + folded = made; kept by what the handler got, not by our counts."""
    told = Counter()
    for record in said.records:
        told.update({key: value for key, value in record.__dict__.items() if key.startswith("perf.log.")})
    repeats = [record.__dict__[FOLDED] for record in kept.records if FOLDED in record.__dict__]
    out = [record for record in kept.records if FOLDED not in record.__dict__]
    dropped = sum(value for key, value in told.items() if key.startswith("perf.log.dropped."))
    assert sum(repeats) == told["perf.log.folded"]
    assert len(out) == told["perf.log.kept"]
    assert len(out) + dropped + sum(repeats) == made == told["perf.log.made"]
    assert sum(record.levelno >= logging.ERROR for record in out) == errors


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of a timer are POSIX's")
def test_a_signal_handler_may_log_in_the_midst_of_a_decision(start, kept, said):
    pipeline = start(OTEL_PERF_LOGS_RATE="20/s", OTEL_PERF_LOGS_FOLD="1ms")
    handled = []

    def handler(number, frame):
        handled.append(number)
        shop().info("same")
        shop().info("argument %d", len(handled))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    made = 0
    try:
        while len(handled) < 200:
            shop().info("same")
            shop().info(f"different {made}")
            made += 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        alarms.restore(before)
    pipeline.shutdown()
    check(kept, said, made=made + 2 * len(handled), errors=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of threads, since 3.12
def test_a_child_begins_its_counts_anew(start, kept, said, monkeypatch):
    """While other threads log; the child counts what it makes, the parent what it made."""
    # What gc_tuning freezes before a fork, the tests that come later would not find.
    pipeline = start(OTEL_PERF_LOGS_RATE="20/s", OTEL_PERF_LOGS_FOLD="10s", OTEL_PERF_GC_TUNING="off")
    # pytest's handler writes to a file: its lock in C may be held by another thread, and is not made anew in a child.
    monkeypatch.setattr(shop(), "propagate", False)
    stop, made = threading.Event(), Counter()

    def work(name):
        while not stop.is_set():
            shop().warning("same")
            shop().warning(f"different {name} {made[name]}")
            made[name] += 2

    running = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in running:
        thread.start()
    shop().warning("same")
    children = []
    for _ in range(10):
        child = os.fork()
        if not child:
            status = 1
            try:
                before, kept.lock = len(kept.records), threading.RLock()
                for _ in range(30):
                    shop().warning("same")
                    shop().warning("argument %d", status)
                out = len(kept.records) - before
                own, lost = accounts()
                status = 0 if (own, own + sum(lost.values())) == (out, 60) and out == 2 else 3
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in running:
        thread.join()
    pipeline.shutdown()
    assert statuses == [0] * 10
    check(kept, said, made=1 + made.total(), errors=0)


# --- rules that come and go -------------------------------------------------------------------------


def events(home):
    return [entry.attributes for entry in logs(home) if entry.event_name == "feature_flag.evaluation"]


def test_rules_change_while_the_program_runs(start, kept, clock, home, tmp_path, caplog):
    flags = tmp_path / "flags.json"
    write_flags(flags)
    plain = logging.Logger.isEnabledFor
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(flags), OTEL_PERF_LOGS_RATE="5/s")

    def lines(**values):
        write_flags(flags, **{f"logs.{name}": value for name, value in values.items()})
        pipeline.reload()
        kept.records.clear()
        for number in range(20):
            shop().info("x %d", number)
            shop().debug("y")
        return Counter(record.levelno for record in kept.records)

    assert lines() == {20: 5, 10: 5}
    clock.advance(10)
    assert lines(levels="shop=INFO", rate="7/s") == {20: 5}, "the environment comes first"
    assert logging.Logger.isEnabledFor is not plain
    clock.advance(10)
    assert lines(levels="shop=LOUD") == {20: 5}, "a wrong value changes nothing"
    clock.advance(10)
    assert lines(fold="10s") == {20: 5, 10: 1}
    assert logging.Logger.isEnabledFor is plain
    clock.advance(10)
    assert lines(sample="DEBUG=0") == {20: 5}
    clock.advance(10)
    assert lines() == {20: 5, 10: 5}
    pipeline.shutdown()
    assert caplog.text.count("perf.logs.levels='shop=LOUD' is wrong at 'LOUD', which is not a level") == 1
    assert [(found["feature_flag.key"], found["feature_flag.result.value"]) for found in events(home)] == [
        ("perf.logs.levels", "shop=INFO"),
        ("perf.logs.levels", ""),
        ("perf.logs.fold", "10s"),
        ("perf.logs.fold", "0.0"),
        ("perf.logs.sample", "DEBUG=0"),
        ("perf.logs.sample", ""),
    ]


def test_a_rate_that_changes_begins_with_full_buckets(start, kept, clock, tmp_path):
    flags = tmp_path / "flags.json"
    write_flags(flags, **{"logs.rate": "1/h"})
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(flags))
    for rate in ("1/h", "3/s", "off"):
        write_flags(flags, **{"logs.rate": rate})
        pipeline.reload()
        for _ in range(10):
            shop().info("x")
    assert len(kept.records) == 1 + 3 + 10


def test_rules_that_end_say_what_is_left_to_say(start, kept, said, clock, tmp_path):
    flags = tmp_path / "flags.json"
    write_flags(flags, **{"logs.fold": "1h"})
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(flags))
    say(10)
    write_flags(flags)
    pipeline.reload()
    assert kept.records[-1].__dict__[FOLDED] == 9
    assert said.records[0].__dict__["perf.log.folded"] == 9
    assert [task for task in cleaning.tasks if task.name.startswith("otel_perf.logs")] == []
    say(2)
    assert len(kept.records) == 4


def test_lines_that_are_made_while_rules_change_are_accounted_for(start, kept, said, tmp_path):
    flags = tmp_path / "flags.json"
    write_flags(flags, **{"logs.rate": "5/s"})
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(flags))
    stop, made = threading.Event(), Counter()

    def work(name):
        while not stop.is_set():
            shop().warning("same")
            made[name] += 1

    running = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in running:
        thread.start()
    for turn in range(30):
        write_flags(flags, **{"logs.rate": f"{5 + turn % 2}/s", "logs.fold": f"{1 + turn % 3}ms"})
        pipeline.reload()
    stop.set()
    for thread in running:
        thread.join()
    pipeline.shutdown()
    check(kept, said, made=made.total(), errors=0)
