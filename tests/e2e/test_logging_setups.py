"""Logging behaves with us as without us, whenever and however the app configures it."""

import pytest

from tests.e2e import programs
from tests.stored import lines

SETUPS = {
    "never configured": """
logging.getLogger("shop").warning("careful")
logging.getLogger("shop").info("quiet")
logging.getLogger("shop").error("broken", exc_info=ValueError("x"))
""",
    "module functions": "logging.warning('careful'); logging.info('quiet')",
    "basicConfig early": """
logging.basicConfig(level=logging.INFO, format="%(levelname)s|%(name)s|%(message)s")
logging.getLogger("shop").info("hello")
""",
    "basicConfig late": """
logging.getLogger("shop").warning("before")
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s|%(message)s", stream=sys.stdout)
logging.getLogger("shop").debug("after")
""",
    "basicConfig twice": """
logging.basicConfig(format="one|%(message)s")
logging.basicConfig(format="two|%(message)s")
logging.getLogger("shop").warning("x")
logging.basicConfig(format="three|%(message)s", force=True)
logging.getLogger("shop").warning("y")
""",
    "dictConfig": """
import logging.config
logging.getLogger("shop").warning("before")
logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": True,
    "formatters": {"f": {"format": "%(levelname)s %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["h"]},
})
logging.getLogger("shop").warning("disabled by the configuration")
logging.getLogger("other").info("hello")
""",
    "filters and levels": """
logging.basicConfig(level=logging.INFO, format="%(message)s")
shop = logging.getLogger("shop")
shop.addFilter(lambda record: "secret" not in record.getMessage())
shop.info("a secret"); shop.info("no such thing"); shop.setLevel(logging.ERROR); shop.info("too low")
logging.disable(logging.ERROR); shop.error("disabled")
""",
    "own logger class": """
class Mine(logging.Logger):
    def callHandlers(self, record):
        record.msg = "mine: " + record.msg
        super().callHandlers(record)
logging.setLoggerClass(Mine)
logging.basicConfig(format="%(funcName)s:%(lineno)d %(message)s")
def caller(): logging.getLogger("shop").warning("x", stacklevel=1)
caller()
""",
    "wrong arguments": "logging.getLogger('shop').warning('%d', 'x')",
    "root handlers are counted": "print(logging.getLogger().handlers, logging.getLogger().level, logging.lastResort)",
    "record factory": """
old = logging.getLogRecordFactory()
def factory(*a, **k):
    record = old(*a, **k); record.tenant = "t1"; return record
logging.setLogRecordFactory(factory)
logging.basicConfig(format="%(tenant)s %(message)s")
logging.getLogger("shop").warning("x")
""",
}
HEAD = "import logging, sys\n"


def without_paths(text):
    """Our wrapper counts as a frame of logging's in a traceback of a handler's error; the app's lines stay."""
    return [line for line in text.splitlines() if not line.startswith(("  File", "    "))]


@pytest.mark.parametrize("setup", SETUPS)
def test_the_program_prints_what_it_printed_without_us(home, setup):
    ours, plain = programs.both(HEAD + SETUPS[setup], home)
    assert (ours.status, ours.out) == (plain.status, plain.out)
    if setup == "wrong arguments":  # logging prints the call stack, in which we are
        assert without_paths(ours.err) == without_paths(plain.err)
    else:
        assert ours.err == plain.err


def test_records_are_exported_all_the_same(home):
    programs.run(HEAD + SETUPS["never configured"], home)
    assert [entry.body for entry in lines(home)] == ["careful", "broken"]


CORRELATION = """
import logging, sys
from opentelemetry import trace
with trace.get_tracer("t").start_as_current_span("s"):
    logging.getLogger("shop").info("first")
    logging.basicConfig(level=logging.WARNING, format="mine %(message)s")
    logging.getLogger("shop").info("too low now")
    logging.getLogger("shop").warning("second")
"""


def test_correlation_prints_ids_until_the_app_has_its_own_format(home):
    """Upstream's defect 1: with OTEL_PYTHON_LOG_CORRELATION the app's own basicConfig did nothing."""
    done = programs.run(CORRELATION, home, OTEL_PYTHON_LOG_CORRELATION="true")
    first, second = done.err.splitlines()
    trace_id = lines(home)[0].trace_id
    assert f"trace_id={trace_id}" in first
    assert "resource.service.name=unknown_service" in first
    assert second == "mine second"


def test_correlation_takes_upstreams_format_and_level(home):
    program = "import logging; logging.getLogger('shop').info('no'); logging.getLogger('shop').error('yes')"
    done = programs.run(
        program, home,
        OTEL_PYTHON_LOG_CORRELATION="true", OTEL_PYTHON_LOG_FORMAT="%(otelTraceID)s %(message)s", OTEL_PYTHON_LOG_LEVEL="error",
    )  # fmt: skip
    assert done.err == "0 yes\n"
