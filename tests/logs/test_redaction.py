"""Secrets are hidden, wherever they turn up; what only looks like one is not."""

import io
import logging
import random
import re
import sys
import time

import pytest
from opentelemetry._logs import LogRecord

from otel_perf.core.guard import LIMIT
from otel_perf.logs import FEATURE, json_format, text_format
from otel_perf.logs.plain_values import MARGIN, fit, fit_ends
from otel_perf.logs.redaction import MARK, Redactor, redactor_for
from otel_perf.logs.settings import LogsSettings
from tests.e2e.support import wait_for
from tests.logs import corpus
from tests.stored import lines, logs

REDACTOR = Redactor()


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(corpus.KEYS) + len(corpus.TEXTS) + len(corpus.SQL) >= 60
    assert len(corpus.ALIKE_KEYS) + len(corpus.ALIKE_TEXTS) >= 60


@pytest.mark.parametrize("text", [*corpus.TEXTS, *corpus.SQL])
def test_a_secret_in_a_text_is_hidden(text):
    assert corpus.leaks(text), "the corpus must know what is secret here"
    clean = REDACTOR.text(text)
    assert corpus.leaks(clean) == []
    assert MARK in clean
    assert REDACTOR.text(clean) == clean


@pytest.mark.parametrize(("name", "value"), corpus.KEYS)
def test_a_secret_in_a_field_is_hidden(name, value):
    assert corpus.leaks(str({name: value}))
    assert corpus.leaks(str(REDACTOR.fields({name: value}))) == []


@pytest.mark.parametrize("text", corpus.ALIKE_TEXTS)
def test_a_text_that_only_looks_like_one_stays(text):
    assert REDACTOR.text(text) == text


@pytest.mark.parametrize(("name", "value"), corpus.ALIKE_KEYS)
def test_a_field_that_only_sounds_like_one_stays(name, value):
    assert REDACTOR.fields({name: value}) == {name: value}


@pytest.mark.parametrize("value", ["", "x", "x" * 1000, 7, b"x", [1, 2], {"a": 1}])
def test_the_mark_tells_nothing_of_what_it_hides(value):
    assert REDACTOR.fields({"password": value}) == {"password": MARK}
    assert REDACTOR.text(f"password='{'y' * 30}'") == REDACTOR.text("password='z'")


def test_texts_of_a_class_of_their_own_are_texts():
    class Safe(str):
        __slots__ = ()

    fields = {
        "url": Safe("redis://:hunter2Zq@h"),
        Safe("https://u:hunter2Zq@h is up"): [Safe("x"), {"a": Safe("Bearer hunter2Zq1")}],
    }
    clean = REDACTOR.fields(fields)
    assert "hunter2Zq" not in str(clean)
    assert list(clean.values()) == [f"redis://:{MARK}@h", ["x", {"a": f"Bearer {MARK}"}]]


def test_a_text_of_a_class_of_its_own_is_exported_without_secrets(start, home):
    class Safe(str):
        __slots__ = ()

    pipeline = start()
    logging.getLogger("corpus").warning("x", extra={"url": Safe("redis://:hunter2Zq@h")})
    pipeline.shutdown()
    assert [entry.attributes for entry in lines(home)] == [{"url": f"redis://:{MARK}@h"}]


@pytest.mark.parametrize("value", [None, True, False])
def test_what_can_hide_nothing_stays(value):
    assert REDACTOR.fields({"password": value}) == {"password": value}


# --- every output --------------------------------------------------------------------------------------


def log_everything(logger):
    """The whole corpus: as fields, messages, arguments, exception texts and within nested extras."""
    for name, value in corpus.KEYS:
        logger.warning("a field", extra={name: value})
        logger.warning("a nested field", extra={"data": {"list": [{name: value}]}})
    for text in (*corpus.TEXTS, *corpus.SQL):
        logger.warning(text.replace("%", "%%") if "%" in text else text)
        logger.warning("got %s", text)
        logger.warning("an extra", extra={"text": text, "nested": [text, {"text": text}]})
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("failed")
    for name, value in corpus.ALIKE_KEYS:
        logger.warning("alike", extra={name: value})
    for text in corpus.ALIKE_TEXTS:
        logger.warning("%s", text)


@pytest.mark.parametrize("variables", [
    {"OTEL_PERF_LOGS_FORMAT": "json"},
    {"OTEL_PERF_LOGS_FORMAT": "json", "OTEL_PERF_LOGS_FIELDS": "ecs"},
    {"OTEL_PERF_LOGS_FORMAT": "text"},
])  # fmt: skip
def test_no_secret_is_in_any_output(start, home, tmp_path, variables):
    pipeline = start(**variables)
    logger, path = logging.getLogger("corpus"), tmp_path / "app.log"
    logger.propagate = False
    stream = io.StringIO()
    handlers = [logging.StreamHandler(stream), logging.FileHandler(path)]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        log_everything(logger)
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
    pipeline.shutdown()
    text = stream.getvalue()
    assert path.read_text() == text
    assert corpus.leaks(text) == []
    exported = lines(home)
    assert len(exported) == 2 * len(corpus.KEYS) + 4 * len(corpus.TEXTS + corpus.SQL) + len(
        corpus.ALIKE_KEYS + corpus.ALIKE_TEXTS
    )
    assert corpus.leaks("\n".join(map(str, exported))) == []
    for file in home.rglob("*"):
        if file.is_file():
            assert corpus.leaks(file.read_bytes().decode("latin-1")) == [], file
    for shown in corpus.ALIKE_TEXTS:
        assert any(entry.body == shown for entry in exported), shown
    for name, value in corpus.ALIKE_KEYS:
        assert any(entry.attributes == {name: value} for entry in exported), name


def test_the_apps_own_lines_are_its_own(start):
    start()
    logger, stream = logging.getLogger("corpus"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        logger.warning("password=hunter2Zq")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "password=hunter2Zq\n"


def test_events_of_ours_are_exported_without_secrets(start, home):
    pipeline = start()
    hook = sys.excepthook
    try:
        raise RuntimeError("connect to postgres://bob:hunter2Zq@db failed")
    except RuntimeError as error:
        hook(type(error), error, error.__traceback__)
    pipeline.shutdown()
    (event,) = [entry for entry in logs(home) if entry.event_name == "perf.uncaught_error"]
    assert "postgres://bob:[redacted]@db" in event.body
    assert corpus.leaks(str(event)) == []


# --- settings ------------------------------------------------------------------------------------------


def test_keys_only(start, home):
    pipeline = start(OTEL_PERF_LOGS_REDACT="keys")
    logging.getLogger("corpus").warning("token=hunter2Zq", extra={"password": "hunter2Zq"})
    pipeline.shutdown()
    (entry,) = lines(home)
    assert (entry.body, entry.attributes) == ("token=hunter2Zq", {"password": MARK})


def test_off(start, home):
    pipeline = start(OTEL_PERF_LOGS_REDACT="off", OTEL_PERF_LOGS_FORMAT="json")
    logging.getLogger("corpus").warning("token=hunter2Zq", extra={"password": "hunter2Zq"})
    pipeline.shutdown()
    (entry,) = lines(home)
    assert (entry.body, entry.attributes) == ("token=hunter2Zq", {"password": "hunter2Zq"})


def test_more_keys_and_patterns(start, home):
    pipeline = start(
        OTEL_PERF_LOGS_REDACT_KEYS="iban, customer ref", OTEL_PERF_LOGS_REDACT_PATTERNS=r"ACME-\d+ ; \bzeta\w*"
    )
    extra = {"customerIBAN": "x1", "customer_ref": "x2", "ref": "shown", "libane": "shown"}
    logging.getLogger("corpus").warning("ACME-123 zetazz iban=x3 alpha", extra=extra)
    pipeline.shutdown()
    (entry,) = lines(home)
    assert entry.body == f"{MARK} {MARK} iban={MARK} alpha"
    assert entry.attributes == {"customerIBAN": MARK, "customer_ref": MARK, "ref": "shown", "libane": "shown"}


@pytest.mark.parametrize(("pattern", "reason"), [
    ("ab(", r"is no regular expression \(missing \), unterminated subpattern at position 2\)"),
    ("x*", "matches the empty text"),
])  # fmt: skip
def test_a_wrong_pattern_is_one_line_and_the_others_count(pattern, reason):
    said = []
    made = redactor_for(LogsSettings(redact_patterns=f"good;{pattern}"), said.append)
    assert made.text("good xx") == f"{MARK} xx"
    (line,) = said
    assert re.match(
        r"otel-perf: OTEL_PERF_LOGS_REDACT_PATTERNS has '" + re.escape(pattern) + "', which " + reason + "; allowed: ",
        line,
    )


# --- how it fails --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("absorbing")
def test_a_record_that_cannot_be_looked_through_goes_out_without_its_texts(start, home, monkeypatch):
    pipeline = start()
    monkeypatch.setattr("otel_perf.logs.redaction.suspicious", lambda text: 1 / 0)
    logging.getLogger("corpus").warning("password=hunter2Zq", extra={"token": "hunter2Zq"})
    pipeline.shutdown()
    assert [(entry.body, entry.attributes) for entry in lines(home)] == [(MARK, {})]
    assert pipeline.guards["logs"].errors == 1


def test_the_processor_is_silent_once_the_feature_is_off(start, home, tmp_path):
    """GIVEN a flag that turns the feature off THEN whoever still emits log records has them as they are."""
    flags = tmp_path / "flags.json"
    flags.write_text('{"flags": {}}')
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(flags))
    assert FEATURE._redaction.on
    pipeline._undo_feature(pipeline.features["logs"], "test")
    emit = pipeline.providers.logger.get_logger("app").emit
    emit(LogRecord(body="password=shown"))
    pipeline._install(pipeline.features["logs"])
    emit(LogRecord(body="password=hidden"))
    pipeline.shutdown()
    assert [entry.body for entry in logs(home) if entry.scope == "app"] == ["password=shown", f"password={MARK}"]


@pytest.mark.usefixtures("absorbing")
def test_secrets_stay_hidden_when_errors_turn_the_feature_off(start, home):
    """GIVEN errors of ours that turn the logs off THEN what the app emits itself still has no secrets."""
    pipeline = start()
    for _ in range(LIMIT):
        pipeline.guards["logs"].handle(ValueError("ours"))
    wait_for(lambda: not pipeline.features["logs"].on)
    pipeline.providers.logger.get_logger("app").emit(LogRecord(body="password=hunter2Zq"))
    pipeline.shutdown()
    assert [entry.body for entry in logs(home) if entry.scope == "app"] == [f"password={MARK}"]


def test_deeper_than_it_looks_all_is_hidden():
    value = "hunter2Zq password=hunter2Zq"
    for _ in range(50):
        value = {"a": [value]}
    assert "hunter2Zq" not in str(REDACTOR.fields({"a": value}))


def test_names_are_remembered_within_bounds():
    made = Redactor()
    for number in range(10_000):
        made.is_secret(f"field_{number}")
        made.is_secret("x" * 300 + str(number))
    assert len(made.known) <= 4096
    assert not made.is_secret(7)
    assert made.is_secret(b"password")


@pytest.mark.parametrize("secret", [corpus.WORD * 5, corpus.JWT, corpus.PEM.replace("\n", "\\n")])
@pytest.mark.parametrize("offset", range(0, 400, 37))
def test_a_secret_that_the_limit_cuts_in_two_is_hidden(secret, offset):
    """GIVEN a text that is cut within a secret THEN neither half is left."""
    known = f"password='{secret}' "
    for text in ("a " * 500 + known + "b " * 20_000, "b " * 20_000 + known + "a " * 500, known * 100 + "b " * 20_000):
        for by in (fit, fit_ends):
            for limit in (offset, 1000 + offset, 4000 + offset, len(text) - 1000 - offset, len(text) - 9000 - offset):
                assert corpus.leaks(by(text, limit, REDACTOR.text)) == []
    assert len(fit("x" * 10 * MARGIN, 100, None)) < 200


def test_arguments_are_hidden_behind_their_flag_only():
    shown = ["psql", "--no-password", "shop", "--password-file", "/x", "--verbose", "on", "-u", "bob", "--token"]
    assert REDACTOR.fields({"argv": shown}) == {"argv": shown}
    hidden = REDACTOR.fields({"argv": ("x", "--token", "--password", "a", "b", "-u", "bob:c")})
    assert hidden == {"argv": ["x", "--token", "--password", MARK, "b", "-u", f"bob:{MARK}"]}


HARD = {
    "jwt": "eyJ", "userinfo": "://a:", "scheme": "://", "word": "a", "escapes": 'password="\\', "cards": "4111 ",
    "digits": "1 ", "insert": "insert into a(", "insert without": "insert into ", "pem": "-----BEGIN RSA PRIVATE KEY-----",
    "open": "token=(", "comma": "token=,", "quotes": "password='", "flags": "--token ", "cookies": "Cookie: a=b;",
    "pairs": '("token",', "tags": "<token>", "dots": "a.b-c_d ", "identified": "identified with ", "auth": "auth: Digest ",
    "parameters": "[SQL: [parameters: token ", "api": "api ", "spaces": "                ", "set": "password for ",
}  # fmt: skip


@pytest.mark.parametrize("piece", HARD.values(), ids=HARD)
def test_no_text_takes_more_than_linear_time(piece):
    def seconds(size):
        text = piece * (size // len(piece)) + " password="
        best = float("inf")
        for _ in range(3):
            began = time.thread_time()
            REDACTOR.text(text)
            best = min(best, time.thread_time() - began)
        return best

    small = seconds(30_000)
    assert seconds(240_000) < 8 * small * 4 + 0.05  # quadratic: 64 times


def test_a_long_text_that_no_one_expects():
    chance = random.Random(3)
    text = "".join(chance.choice("ab=:'\"\\ -_,;()<>{}[]0 1./@?&\n") for _ in range(300_000))
    assert isinstance(REDACTOR.text(text + " password=hunter2Zq"), str)
    assert "hunter2Zq" not in REDACTOR.text(text + "\n password=hunter2Zq")


def test_lines_of_encoders_by_hand_have_no_secrets_either():
    for encoder in (json_format.Encoder("shop", redactor=REDACTOR), text_format.TextEncoder("shop", redactor=REDACTOR)):
        line = encoder.compose(
            time=1.0, level="INFO", levelno=20, logger="shop", message="token=hunter2Zq",
            attributes={"password": "hunter2Zq", "deep": {"url": "redis://:hunter2Zq@h/0"}},
            error=ValueError("Bearer hunter2Zq1"), ids=("", "", False), correlation="", place=("a.py", 1, "f"),
        )  # fmt: skip
        assert "hunter2Zq" not in line
        assert line.count(MARK) >= 4


@pytest.mark.parametrize(("label", "value"), [("key", "value"), ("Key", "Value")])
def test_a_line_that_names_its_values_secret_hides_it(start, home, tmp_path, label, value):
    """GIVEN extras of which one says what the other is THEN neither a line nor an exported record has it."""
    log = logging.getLogger("shop.settings")
    log.setLevel(logging.INFO)
    handler = logging.FileHandler(tmp_path / "app.log")
    log.addHandler(handler)
    try:
        pipeline = start(OTEL_PERF_LOGS_FORMAT="json")
        for _ in range(3):  # the first line of a place is made in another way than the next ones
            log.info("set", extra={label: "API_KEY", value: corpus.WORD})
            log.info("set", extra={label: "port", value: "kept"})
        pipeline.shutdown()
    finally:
        log.removeHandler(handler)
        handler.close()
    exported = str([dict(record.attributes) for record in logs(home)])
    for text in ((tmp_path / "app.log").read_text(), exported):
        assert corpus.leaks(text) == []
        assert text.count("kept") == 3


def test_names_of_values_are_not_remembered():
    redactor = Redactor()
    redactor.fields({"name": corpus.WORD, "value": 1})
    assert corpus.WORD not in str(redactor.known)
    assert redactor.fields({"name": "API_KEY", "value": None}) == {"name": "API_KEY", "value": None}
