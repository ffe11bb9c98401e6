"""otel-perf signals: what it prints, and 0, 1, 2 or 3."""

import json
import os
import subprocess
import sys
import threading

import pytest

from otel_perf import cli
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database
from tests.e2e.support import wait_for
from tests.view.test_index import put
from tests.view.test_questions import signal_span


def run(*arguments):
    return cli.main(["signals", *map(str, arguments)])


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_what_is_emitted_is_listed_and_waited_for(capsys):
    assert run("emit", "CACHE_WARM", "--payload", '{"rows": 7}', "--key", "eu", "--agent", "loader", "--json") == 0
    emitted = printed(capsys)
    assert (emitted["payload"], emitted["key"], emitted["agent"], emitted["state"]) == (
        {"rows": 7}, "eu", "loader", "ready",
    )  # fmt: skip
    assert run("wait", "CACHE_WARM", "--key", "eu", "--timeout", "0") == 0
    assert f"#{emitted['seq']} CACHE_WARM [eu] ready by loader (pid {os.getpid()}, life 1)" in capsys.readouterr().out
    assert run("wait", "CACHE_WARM", "--key", "eu", "--json") == 0
    assert [row["seq"] for row in printed(capsys)] == [emitted["seq"]]
    assert run("ls") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["SEQ", "SIGNAL", "KEY", "STATE", "AT", "BY", "WHAT"]
    assert row.split()[:4] == [str(emitted["seq"]), "CACHE_WARM", "eu", "ready"]
    assert run("ls", "--json", "--scope", "blue") == 0
    assert printed(capsys) == {"signals": [], "waits": []}


def test_an_empty_board_is_said_to_be_empty(capsys, home):
    assert run("ls") == 0
    assert capsys.readouterr().out == f"No signals on {home / 'signals.db'}.\n"


def test_failed_is_1_wrong_usage_2_and_timeout_3(capsys):
    assert run("emit", "DB", "--failed", "no disk") == 0
    assert run("wait", "DB") == 1
    assert "otel-perf signals: DB failed: no disk (otel-perf-signals (pid" in capsys.readouterr().err
    assert run("wait", "DB", "--accept-failed") == 0
    assert run("wait", "DB", "NEVER", "--accept-failed", "--timeout", "100ms") == 3
    assert "after 0.1 s still missing: NEVER (never emitted here)" in capsys.readouterr().err
    assert run("emit", "a b") == 2
    assert "signal name 'a b': it must be 1 to 128" in capsys.readouterr().err
    assert run("wait", "DB", "--url", "carrier-pigeon:") == 2
    for wrong in (["emit", "A", "--payload", "{a"], ["wait"], ["wait", "A", "--timeout", "soon"], ["sing"]):
        with pytest.raises(SystemExit) as caught:
            run(*wrong)
        assert caught.value.code == 2


def test_a_board_that_cannot_be_used_is_1(capsys, home):
    home.mkdir()
    (home / "signals.db").touch(0o666)
    (home / "signals.db").chmod(0o666)
    assert run("ls") == 1
    assert "can be written by others" in capsys.readouterr().err


def test_watch_shows_what_comes_and_replays_from_a_number(capsys):
    for name in ("A", "B", "A"):
        assert run("emit", name) == 0
    capsys.readouterr()
    assert run("watch", "A", "--after", "0", "--for", "10ms", "--json") == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["A", "A"]
    assert run("watch", "--for", "10ms") == 0
    assert capsys.readouterr().out == ""


def test_a_shell_script_waits_for_a_process_and_shows_up_in_ls(capsys):
    command = [sys.executable, "-m", "otel_perf", "signals", "wait", "LATER", "--timeout", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        reader = threading.Thread(target=lambda: said.append(waiting.stdout.read()))
        said = []
        reader.start()

        def waits():
            assert run("ls", "--json") == 0
            return printed(capsys)["waits"]

        (wait,) = wait_for(waits, what="the wait is known")
        assert wait["names"] == ["LATER"]
        assert run("ls") == 0
        assert "waits for LATER, since" in capsys.readouterr().out
        assert run("emit", "LATER", "--payload", "1") == 0
        assert waiting.wait(20) == 0
        reader.join()
    assert "LATER ready by" in said[0]


def test_the_report_says_which_key_was_waited_for_and_what_failed(tmp_path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    Database(home / STORE_FILE, limit=10**9).close()
    got = {"perf.signal.name": "DOCS", "perf.signal.key": "7", "perf.signal.emitter": "writer"}
    waited = {"perf.signal.names": ["DOCS"], "perf.signal.key": "7", "perf.signal.outcome": "failed"}
    put(home, "traces", signal_span(b"w", 5, waited, [("perf.signal.received", got)]))
    assert cli.main(["report", "--home", str(home)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "waits for" in line]
    assert "waits for DOCS [7] " in line
    assert line.endswith("failed: DOCS by writer")
