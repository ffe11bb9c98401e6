"""otel-perf audit: what it prints, and 0, 1 or 2."""

import contextlib
import json
import os
import sqlite3

import pytest

from otel_perf import cli
from otel_perf.logs.audit.database import AUDIT_FILE
from tests.logs.audit import trails


@pytest.fixture
def trail(home):
    trails.fill(home, [1, 2, 3])
    return home


def run(*arguments):
    return cli.main(["audit", *map(str, arguments)])


def test_verify_says_what_is_good(trail, capsys):
    assert run("verify") == 0
    out = capsys.readouterr().out
    last = trails.rows(trail)[-1]
    assert out.startswith("good: 7 records, chained and signed\n")
    assert f"head 7:{last.hash.hex()}" in out
    assert run("verify", "--json", "--key", trail / "audit.pub", "--expect-head", f"7:{last.hash.hex()}") == 0
    assert json.loads(capsys.readouterr().out)["good"] is True


def test_verify_names_the_first_bad_record_and_why(trail, capsys):
    with trails.tampering(trail) as connection:
        connection.execute("UPDATE record SET time = time + 1 WHERE seq IN (4, 6)")
    assert run("verify") == 1
    assert capsys.readouterr().out.startswith(
        "BAD: record 4: the record was changed: its hash does not fit it and the record before\n"
    )
    assert run("verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["good"], found["first_bad"]) == (False, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["verify", "--nonsense"], ["verify", "--expect-head", "5"], ["verify", "--expect-head", "x:00"],
        ["verify", "--expect-head", f"-1:{'0' * 64}"], ["verify", "--expect-head", f"²:{'0' * 64}"],
        ["verify", "--key", "no such file"], ["verify", "--checkpoints", "no such file"], ["show", "--last", "0"],
        ["show", "--since", "soon"], ["export", "--after", "x"], ["cut"], ["cut", "--older-than", "old"],
    ],
)  # fmt: skip
def test_wrong_usage_is_2(trail, arguments, capsys):
    try:
        status = run(*arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("action", ["verify", "show", "export", "checkpoint", "keys", "cut --older-than 1d"])
def test_no_trail_is_1_and_makes_none(home, action, capsys):
    assert run(*action.split()) == 1
    assert f"there is no audit trail at {home / AUDIT_FILE}" in capsys.readouterr().err
    assert not home.exists()


def test_a_public_key_that_is_damaged_is_bad(trail, capsys):
    (trail / "audit.pub").write_text("x")
    assert run("verify") == 1
    assert "--key gives the one you trust" in capsys.readouterr().err


@pytest.mark.parametrize("replace", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["audit.head", "audit.checkpoints", AUDIT_FILE])
def test_a_file_of_the_trail_that_is_none_is_bad_and_not_waited_for(trail, name, replace, capsys):
    (trail / name).unlink(missing_ok=True)
    replace(trail / name)
    assert run("verify") == 1
    out, err = capsys.readouterr()
    assert out.startswith("BAD") or "no file" in err


def test_checkpoints_from_a_pipe_are_refused_and_not_passed_over(trail, tmp_path, capsys):
    """A pipe has no length: nothing of it would be compared."""
    os.mkfifo(tmp_path / "pipe")
    assert run("verify", "--checkpoints", tmp_path / "pipe") == 2
    assert "is no file" in capsys.readouterr().err


def test_checkpoints_that_are_set_and_missing_are_named(trail, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_CHECKPOINTS", str(tmp_path / "volume" / "heads"))
    assert run("verify") == 0
    assert f"note: {tmp_path / 'volume' / 'heads'}, where checkpoints are kept, is missing" in capsys.readouterr().out


def test_show_chooses(trail, capsys):
    assert run("show") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith('2  2023-11-14 22:13:20.000Z  "t"  actor="a0"  target="x"  outcome="success"')
    assert run("show", "--all", "--last", "2", "--json") == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [6, 7]
    assert run("show", "--actor", "a3", "--json") == 0
    assert [json.loads(line)["body"]["fields"] for line in capsys.readouterr().out.splitlines()] == [{"n": 3}]
    assert run("show", "--since", "1h") == 0
    assert capsys.readouterr().out == ""
    assert run("show", "--all", "--since", "1h") == 0
    assert "[key]" in capsys.readouterr().out


def test_show_tells_the_terminal_nothing(home, capsys):
    with contextlib.closing(trails.opened(home)) as database:
        database.append([trails.event(1, text="\x1b[2J\n")])
    assert run("show") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_export_is_a_line_a_record(trail, capsys):
    assert run("export") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 8))
    assert [line["hash"] for line in lines] == [row.hash.hex() for row in trails.rows(trail)]
    assert run("export", "--json", "--after", "5") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_checkpoint_kept_elsewhere_finds_what_was_cut_later(trail, tmp_path, capsys):
    assert run("checkpoint", "--json") == 0
    (tmp_path / "kept").write_text(capsys.readouterr().out)
    assert run("checkpoint") == 0
    assert "--expect-head 7:" in capsys.readouterr().out
    for path in (trail / AUDIT_FILE, trail / "audit.head"):
        path.unlink()
    trails.fill(trail, [1])
    assert run("verify", "--checkpoints", tmp_path / "kept") == 1
    assert "is of another trail" in capsys.readouterr().out


def test_keys_are_shown_and_rotated(trail, capsys):
    assert run("keys", "--json") == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert first == {"since": 1, "public": (trail / "audit.pub").read_text().strip()}
    assert run("keys", "--rotate") == 0
    out = capsys.readouterr().out
    assert out == f"{first['public']}  from record 1\n{(trail / 'audit.pub').read_text().strip()}  from record 8\n"
    assert run("verify", "--key", first["public"]) == 0
    capsys.readouterr()


def test_cut_removes_what_is_old(trail, capsys):
    with sqlite3.connect(trail / AUDIT_FILE) as connection:
        (made,) = connection.execute("SELECT time FROM record WHERE seq = 1").fetchone()
    connection.close()
    assert made > trails.START_NS
    assert run("cut", "--older-than", "1d", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 0}, "the key is younger than all"
    assert run("cut", "--older-than", "0s") == 0
    assert capsys.readouterr().out == "removed 7 records\n"
    assert run("verify") == 0
    assert "7 older records were removed by a signed cut" in capsys.readouterr().out


def test_an_unsigned_trail_says_so(home, capsys, monkeypatch):
    monkeypatch.setattr("otel_perf.logs.audit.keys.available", lambda: False)
    trails.fill(home, [1])
    assert run("verify") == 0
    out = capsys.readouterr().out
    assert "chained and unsigned" in out
    assert "note: unsigned" in out
    assert run("checkpoint") == 0
    assert run("keys") == 0
    assert "pip install 'otel-perf[audit]'" in capsys.readouterr().out
    assert run("keys", "--rotate") == 1
    assert "there is no key to rotate" in capsys.readouterr().err


def test_a_signed_trail_needs_the_extra_to_be_verified(trail, capsys, monkeypatch):
    monkeypatch.setattr("otel_perf.logs.audit.keys.available", lambda: False)
    assert run("verify") == 1
    assert "pip install 'otel-perf[audit]'" in capsys.readouterr().err
