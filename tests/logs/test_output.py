"""Whose lines get our format, and that everything else stays the app's."""

import io
import logging
import logging.config
import logging.handlers
import pickle
import queue
import sys

import pytest
from opentelemetry import trace
from uvicorn.config import LOGGING_CONFIG

from tests.log_lines import check, check_all


@pytest.fixture
def logger():
    """A logger that the test may configure as it likes."""
    made = logging.getLogger("output")
    made.propagate = False
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()
    made.propagate = True
    made.setLevel(logging.NOTSET)


@pytest.fixture
def root():
    """The root logger without the handlers of pytest; as it was afterwards."""
    made, before = logging.getLogger(), []

    def bare():  # called by the test, since pytest adds its handlers after the fixtures
        before.extend([list(made.handlers), made.level])
        made.handlers[:] = []
        return made

    yield bare
    made.handlers[:], level = before
    made.setLevel(level)


def on(logger, handler, formatter=None):
    handler.setFormatter(logging.Formatter(formatter) if formatter else None)
    logger.addHandler(handler)
    return handler


def json_of(stream):
    return check_all(stream.getvalue())


def test_without_the_variable_nothing_is_patched(start, logger):
    start()
    assert "format" not in vars(logging.StreamHandler)
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream), "mine %(message)s")
    logger.warning("x")
    assert stream.getvalue() == "mine x\n"


def test_a_line_has_the_ids(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream))
    with trace.get_tracer("t").start_as_current_span("s") as span:
        logger.warning("x", extra={"order": 7})
    (line,) = json_of(stream)
    context = span.get_span_context()
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (
        f"{context.trace_id:032x}", f"{context.span_id:016x}", "01",
    )  # fmt: skip
    assert (line["service.name"], line["scope.name"], line["attributes"]) == ("shop", "output", {"order": 7})
    assert line["code.file.path"] == __file__


def test_handlers_from_before_and_after_and_whatever_formatter(start, logger):
    before, after = io.StringIO(), io.StringIO()
    on(logger, logging.StreamHandler(before), "before %(message)s")
    start(OTEL_PERF_LOGS_FORMAT="json")
    handler = on(logger, logging.StreamHandler(after), "after %(message)s")
    logger.warning("one")
    handler.setFormatter(logging.Formatter("again %(message)s"))
    logger.warning("two")
    for stream in (before, after):
        assert [line["body"] for line in json_of(stream)] == ["one", "two"]


def test_a_handler_that_has_no_stream(start, logger):
    class Elsewhere(logging.StreamHandler):
        def __init__(self):
            logging.Handler.__init__(self)
            self.lines = []

        def emit(self, record):
            self.lines.append(self.format(record))

    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    handler = on(logger, Elsewhere())
    logger.warning("grüße")
    assert [check(line)["body"] for line in handler.lines] == ["grüße"]
    assert pipeline.guards["logs"].errors == 0


def test_levels_filters_and_the_number_of_handlers_stay(start, logger):
    root_handlers = list(logging.getLogger().handlers)
    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    handler = on(logger, logging.StreamHandler(stream))
    before = list(logger.handlers)
    handler.setLevel(logging.ERROR)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.warning("too low")
    logger.error("a secret")
    logger.error("shown")
    assert [line["body"] for line in json_of(stream)] == ["shown"]
    assert logger.handlers == before
    assert logging.getLogger().handlers == root_handlers


def test_basic_config(start, root, tmp_path):
    start(OTEL_PERF_LOGS_FORMAT="json")
    root = root()
    logging.basicConfig(filename=tmp_path / "app.log", format="%(message)s", level=logging.INFO)
    try:
        logging.info("grüße %d", 7)  # noqa: LOG015
    finally:
        root.handlers[0].close()
    (line,) = check_all((tmp_path / "app.log").read_text(encoding=root.handlers[0].encoding))
    assert (line["body"], line["severity_text"]) == ("grüße 7", "INFO")


def test_dict_config_of_uvicorn(start, capsys):
    start(OTEL_PERF_LOGS_FORMAT="json")
    logging.config.dictConfig(LOGGING_CONFIG)
    try:
        logging.getLogger("uvicorn.error").info("Started", extra={"color_message": "\x1b[1mStarted"})
        logging.getLogger("uvicorn.access").info(
            '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/a?token=hunter2", "1.1", 200
        )
    finally:
        for name in ("uvicorn", "uvicorn.access"):
            logging.getLogger(name).handlers[:] = []
            logging.getLogger(name).propagate = True
    told = capsys.readouterr()
    assert [line["body"] for line in check_all(told.err)] == ["Started"]
    (access,) = check_all(told.out)
    assert access["body"] == '127.0.0.1:1 - "GET /a?token=[redacted] HTTP/1.1" 200'


def test_the_last_resort(start, root, monkeypatch):
    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root()
    logging.getLogger("nobody").warning("careful")
    logging.getLogger("nobody").info("too low")
    assert [line["body"] for line in json_of(stream)] == ["careful"]


def test_a_rotating_file(start, logger, tmp_path):
    start(OTEL_PERF_LOGS_FORMAT="json")
    on(logger, logging.handlers.RotatingFileHandler(tmp_path / "app.log", maxBytes=1000, backupCount=9))
    for number in range(12):
        logger.warning("line %d", number)
    files = sorted(tmp_path.glob("app.log*"))
    assert len(files) > 3
    assert all(file.stat().st_size <= 1000 for file in files)
    lines = [line for file in files for line in check_all(file.read_text())]
    assert sorted(line["body"] for line in lines) == sorted(f"line {number}" for number in range(12))


@pytest.mark.parametrize("kind", [logging.handlers.TimedRotatingFileHandler, logging.handlers.WatchedFileHandler])
def test_other_files(start, logger, tmp_path, kind):
    start(OTEL_PERF_LOGS_FORMAT="json")
    on(logger, kind(tmp_path / "app.log"), "%(message)s")
    logger.warning("x")
    assert [line["body"] for line in check_all((tmp_path / "app.log").read_text())] == ["x"]


def test_a_queue_hands_the_message_on_and_the_line_is_made_at_its_end(start, logger):
    """GIVEN a queue's handler THEN nothing is formatted twice, and the ids are those of where it was logged."""
    start(OTEL_PERF_LOGS_FORMAT="json")
    stream, records = io.StringIO(), queue.Queue()
    on(logger, logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, logging.StreamHandler(stream))
    with trace.get_tracer("t").start_as_current_span("s") as span:
        try:
            raise ValueError("no stock")
        except ValueError:
            logger.exception("failed %d", 7, extra={"order": 7})
    listener.start()
    listener.stop()
    (line,) = json_of(stream)
    assert (line["body"], line["exception.type"], line["exception.message"]) == ("failed 7", "ValueError", "no stock")
    assert line["exception.stacktrace"].startswith("Traceback")
    assert line["attributes"] == {"order": 7}
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"


def test_a_memory_handler_hands_the_records_on(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    on(logger, logging.handlers.MemoryHandler(10, target=logging.StreamHandler(stream)))
    logger.warning("x")
    assert stream.getvalue() == ""
    logger.error("y")
    assert [line["body"] for line in json_of(stream)] == ["x", "y"]


def test_a_handler_with_a_format_of_its_own_keeps_it(start, logger):
    class Shouting(logging.StreamHandler):
        def format(self, record):
            return super().format(record).upper()

    class Coloured(Shouting):
        pass

    start(OTEL_PERF_LOGS_FORMAT="json")
    for kind in (Shouting, Coloured):
        stream = io.StringIO()
        handler = on(logger, kind(stream), "mine %(message)s")
        logger.warning("x")
        assert stream.getvalue() == "MINE X\n"
        logger.removeHandler(handler)


def test_a_subclass_that_only_emits_otherwise_is_a_stream_like_any_other(start, logger):
    class Counting(logging.StreamHandler):
        count = 0

        def emit(self, record):
            self.count += 1
            super().emit(record)

    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    handler = on(logger, Counting(stream), "mine %(message)s")
    logger.warning("x")
    assert handler.count == 1
    assert [line["body"] for line in json_of(stream)] == ["x"]


def test_handlers_that_are_no_streams_keep_their_format(start, logger):
    class Mail(logging.handlers.BufferingHandler):
        def flush(self):
            self.sent = [self.format(record) for record in self.buffer]
            super().flush()

    start(OTEL_PERF_LOGS_FORMAT="json")
    handler = on(logger, Mail(10), "mine %(message)s")
    logger.warning("x")
    handler.flush()
    assert handler.sent == ["mine x"]


def test_what_pytest_shows_stays_as_it_is(start, caplog):
    start(OTEL_PERF_LOGS_FORMAT="json")
    logging.getLogger("shown").warning("x")
    assert "x" in caplog.text
    assert '"body"' not in caplog.text


@pytest.mark.parametrize(
    ("encoding", "raw"), [("ascii", b"gr\\u00fc\\u00dfe \\ud83d\\ude00"), ("utf-8", "grüße 😀".encode())]
)
def test_a_stream_that_has_not_every_sign_gets_json_that_says_the_same(start, logger, encoding, raw):
    start(OTEL_PERF_LOGS_FORMAT="json")
    below = io.BytesIO()
    stream = io.TextIOWrapper(below, encoding=encoding, errors="backslashreplace")
    on(logger, logging.StreamHandler(stream))
    logger.warning("grüße 😀", extra={"who": "Köln"})
    written = below.getvalue()
    assert raw in written
    line = check(written.decode().rstrip("\n"))
    assert (line["body"], line["attributes"]) == ("grüße 😀", {"who": "Köln"})


def test_a_binary_wrapper_without_an_encoding_is_fine(start, logger):
    class Bare:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

    start(OTEL_PERF_LOGS_FORMAT="json")
    stream = Bare()
    on(logger, logging.StreamHandler(stream))
    logger.warning("grüße")
    assert check(stream.text.rstrip("\n"))["body"] == "grüße"


def test_ecs(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="json", OTEL_PERF_LOGS_FIELDS="ecs")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream))
    logger.warning("x")
    (line,) = check_all(stream.getvalue(), "ecs")
    assert (line["message"], line["log.level"]) == ("x", "warning")


def test_text(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="text")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream))
    with trace.get_tracer("t").start_as_current_span("s") as span:
        logger.warning("order %d", 7, extra={"who": "bob b", "token": "hunter2", "n": 1})
    context = span.get_span_context()
    stamp, _, rest = stream.getvalue().partition(" ")
    assert stamp.endswith("Z")
    assert rest == (
        'WARNING  [output] order 7 who="bob b" token=[redacted] n=1'
        f" trace_id={context.trace_id:032x} span_id={context.span_id:016x}\n"
    )


def test_text_has_the_traceback_beneath(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="text")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream))
    try:
        raise ValueError("no stock")
    except ValueError:
        logger.exception("failed")
    first, second, *_, last = stream.getvalue().splitlines()
    assert first.endswith("ERROR    [output] failed")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: no stock"


def test_all_is_undone(start, logger):
    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    assert "format" in vars(logging.StreamHandler)
    pipeline.shutdown()
    assert "format" not in vars(logging.StreamHandler)
    assert logging.StreamHandler.format is logging.Handler.format
    assert logging.handlers.QueueHandler.prepare.__module__ == "logging.handlers"
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream), "mine %(message)s")
    logger.warning("x")
    assert stream.getvalue() == "mine x\n"


def test_the_feature_may_be_turned_off_and_on_again(start, logger):
    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream), "mine %(message)s")
    state = pipeline.features["logs"]
    pipeline._undo_feature(state, "test")
    logger.warning("off")
    pipeline._install(state)
    logger.warning("on")
    first, second = stream.getvalue().splitlines()
    assert first == "mine off"
    assert check(second)["body"] == "on"


def test_a_patch_that_was_there_before_is_back_afterwards(start, logger, monkeypatch):
    monkeypatch.setattr(logging.StreamHandler, "format", lambda self, record: "theirs", raising=False)
    theirs = vars(logging.StreamHandler)["format"]
    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream))
    logger.warning("x")
    assert [line["body"] for line in json_of(stream)] == ["x"]
    pipeline.shutdown()
    assert vars(logging.StreamHandler)["format"] is theirs


def test_a_patch_on_top_of_ours_stays_and_ours_falls_silent(start, logger):
    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    ours = logging.StreamHandler.format

    def theirs(self, record):
        return "theirs: " + ours(self, record)

    logging.StreamHandler.format = theirs
    try:
        pipeline.shutdown()
        stream = io.StringIO()
        on(logger, logging.StreamHandler(stream), "mine %(message)s")
        logger.warning("x")
        assert stream.getvalue() == "theirs: mine x\n"
    finally:
        del logging.StreamHandler.format


@pytest.mark.usefixtures("absorbing")
def test_an_error_of_ours_leaves_the_apps_line(start, logger, monkeypatch):
    from otel_perf.logs.json_format import Encoder

    monkeypatch.setattr(Encoder, "line", lambda self, record: 1 / 0)
    pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
    stream = io.StringIO()
    on(logger, logging.StreamHandler(stream), "mine %(message)s")
    logger.warning("x")
    assert stream.getvalue() == "mine x\n"
    assert pipeline.guards["logs"].errors == 1


@pytest.mark.parametrize(("name", "value", "allowed"), [
    ("FORMAT", "xml", "json or text"), ("FIELDS", "loki", "otel or ecs"), ("REDACT", "maybe", "on, keys, off"),
    ("LINE", "100", "4 KiB or more, like 65536 or 64KiB"),
])  # fmt: skip
def test_a_wrong_setting_is_one_line(start, caplog, name, value, allowed):
    start(**{f"OTEL_PERF_LOGS_{name}": value})
    (line,) = [entry.getMessage() for entry in caplog.records if "OTEL_PERF_LOGS" in entry.getMessage()]
    assert line.startswith(f"otel-perf: OTEL_PERF_LOGS_{name}='{value}' is ")
    assert f"; allowed: {allowed}; using " in line


def test_what_a_queue_hands_on_can_be_pickled_and_read_by_others(start, logger):
    start(OTEL_PERF_LOGS_FORMAT="json")
    records = queue.Queue()
    on(logger, logging.handlers.QueueHandler(records))
    logger.error("failed", exc_info=ValueError("no stock"), stack_info=True)
    copy = pickle.loads(pickle.dumps(records.get()))
    assert logging.Formatter("mine %(message)s").format(copy).startswith("mine failed\nValueError: no stock\nStack")
    stream = io.StringIO()
    logging.StreamHandler(stream).emit(copy)
    (line,) = json_of(stream)
    assert (line["body"], line["exception.type"]) == ("failed", "ValueError")
    assert line["code.stacktrace"].startswith("Stack (most recent call last)")
    copy._otelHanded = ("not", "five")
    stream.truncate(0)
    assert check(logging.StreamHandler(stream).format(copy))["body"].startswith("failed\nValueError")
