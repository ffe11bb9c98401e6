"""Files that somebody prepared: the verifier answers, and neither fails nor fills the memory."""

import contextlib
import json
import os
import sqlite3
import tracemalloc

import pytest

from otel_perf import cli
from otel_perf.core.errors import AuditError
from otel_perf.logs.audit import chain
from otel_perf.logs.audit.anchors import Anchors, Expected
from otel_perf.logs.audit.database import AUDIT_FILE
from otel_perf.logs.audit.reader import Reader
from otel_perf.logs.audit.verify import verify
from tests.logs.audit import trails


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE record SET body = 'text' WHERE seq = 5", 5),
        ("UPDATE record SET body = zeroblob(1500000) WHERE seq = 5", 5),
        ("UPDATE record SET body = zeroblob(3000000) WHERE seq = 5", 5),
        ("UPDATE record SET hash = zeroblob(3000000) WHERE seq = 5", 5),
        ("UPDATE record SET time = 'soon' WHERE seq = 5", 5),
        ("UPDATE record SET time = 1e300 WHERE seq = 5", 5),
        ("UPDATE record SET kind = x'ff' WHERE seq = 5", 5),
        ("UPDATE record SET kind = 'nonsense' WHERE seq = 5", 5),
        ("UPDATE record SET kind = 17 WHERE seq = 5", 5),
        ("UPDATE record SET seal = 'x' WHERE seq = 5", 5),
        ("UPDATE record SET seal = zeroblob(63) WHERE seq = 5", 5),
        ("UPDATE record SET seq = -seq WHERE seq = 5", 5),
        ("INSERT INTO record SELECT 0, time, kind, body, hash, seal FROM record WHERE seq = 5", 1),
        ("INSERT INTO record SELECT -7, time, kind, body, hash, seal FROM record WHERE seq = 5", 1),
        ("UPDATE record SET seq = 9223372036854775807 WHERE seq = 5", 5),
        ("DELETE FROM record", 1),
        ("CREATE TRIGGER hidden AFTER INSERT ON record BEGIN DELETE FROM record WHERE seq = new.seq; END", 1),
        ("CREATE TABLE other (x)", 1),
        ("ALTER TABLE record RENAME TO other", 1),
        ("DROP TABLE record", 1),
        ("UPDATE signer SET public = 'x'", 1),
        ("UPDATE signer SET public = zeroblob(32)", 1),
        ("UPDATE signer SET consent = zeroblob(64)", 1),
        ("UPDATE signer SET seq = 2", 1),
        ("UPDATE signer SET seq = 1000", 1),
        ("DELETE FROM signer", 1),
        ("INSERT INTO signer VALUES (7, zeroblob(32), zeroblob(64))", 7),
        ("INSERT INTO signer VALUES (7, zeroblob(32), NULL)", 7),
        ("UPDATE trail SET cut = -1", 1),
        ("UPDATE trail SET cut = 'x'", 1),
        ("UPDATE trail SET id = x'ff'", 1),
        ("UPDATE trail SET id = 5", 1),
    ],
)
def test_whatever_is_in_the_tables_there_is_an_answer(made, statement, bad, capsys):
    home = made(2, 3, 5)
    with contextlib.closing(sqlite3.connect(home / AUDIT_FILE)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(statement)
    tracemalloc.start()
    found = trails.judge(home)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.good, found.first_bad) == (False, bad), found.reason
    assert peak < 5_000_000
    for action in ("verify", "show", "export", "checkpoint", "keys"):  # none of them fails with a traceback
        assert cli.main(["audit", action, "--home", str(home), "--json"]) in {0, 1}
        assert cli.main(["audit", action, "--home", str(home)]) in {0, 1}
    capsys.readouterr()


@pytest.mark.parametrize("content", [b"", b"x", b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(home, content, capsys):
    home.mkdir()
    (home / AUDIT_FILE).write_bytes(content)
    assert cli.main(["audit", "verify", "--home", str(home)]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out.startswith("BAD") or "cannot be read" in err


@pytest.mark.parametrize("size", [100, 4096, 5000, 20_000])
def test_a_file_that_was_cut_short(made, size, capsys):
    home = made(*[5] * 40)
    os.truncate(home / AUDIT_FILE, size)
    assert cli.main(["audit", "verify", "--home", str(home)]) == 1
    capsys.readouterr()


def test_a_newer_format_is_refused(made):
    home = made(3)
    with contextlib.closing(sqlite3.connect(home / AUDIT_FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(AuditError, match="has format 99"):
        Reader(home)
    with pytest.raises(AuditError, match="has format 99"):
        trails.opened(home)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[" * 5000, b'{"trail": 5}', b"\xff\xfe", b'{"trail":"x","seq":1,"hash":"","key":"","seal":""}'],
)
def test_a_head_or_checkpoint_that_is_nonsense(made, line):
    home = made(3)
    (home / "audit.head").write_bytes(line)
    assert not trails.judge(home).good
    elsewhere = home / "elsewhere"
    elsewhere.write_bytes(line + b"\n" + line)
    (home / "audit.head").unlink()
    found = trails.judge(home, files=[elsewhere], open_end=True)
    assert found.good is (chain.Checkpoint.parse(line) is None)


def test_checkpoints_that_somebody_forged_are_found(made):
    home = made(3, 3)
    last = trails.rows(home)[-1]
    forged = chain.Checkpoint(
        trails.judge(home).trail, 100, "00" * 32, (home / "audit.pub").read_text().strip(), "00" * 64
    )
    (home / "audit.checkpoints").write_text(forged.line() + "\n")
    found = trails.judge(home)
    assert not found.good
    assert "no key of the trail signed this checkpoint" in found.reason
    assert trails.judge(home).first_bad == last.seq + 1


def test_a_chain_that_nobody_signed_is_checked_against_its_anchors(home, monkeypatch):
    """Without the extra, whoever recomputes the chain is found by the head, and by what was written down."""
    monkeypatch.setattr("otel_perf.logs.audit.keys.available", lambda: False)
    trails.fill(home, [1] * 10)
    found = trails.judge(home)
    assert (found.good, found.signed) == (True, False)
    assert "unsigned" in found.notes[0]
    rows, known = trails.rows(home), trails.rows(home)[4]
    rows[6] = rows[6]._replace(time=1)
    with trails.tampering(home) as connection:
        trails.put(connection, trails.rechained(found.trail, rows))
    found = trails.judge(home, heads=[Expected(known.seq, known.hash.hex())])
    assert (found.good, found.first_bad, found.last_bad) == (False, 1, 10)
    lines = [chain.Checkpoint(found.trail, row.seq, row.hash.hex(), "", "").line() for row in trails.rows(home)[:5]]
    (home / "audit.checkpoints").write_text("\n".join(lines) + "\n")
    assert trails.judge(home).first_bad == 6
    assert not trails.judge(home, key=bytes(32)).good, "and it is not signed"


def test_verifying_takes_the_same_memory_for_ten_times_the_records(home, tmp_path):
    peaks = []
    for number, records in enumerate((2_000, 20_000)):
        folder = tmp_path / str(number)
        trails.fill(folder, [1000] * (records // 1000))
        with (folder / "audit.checkpoints").open("a") as file:
            head = json.loads((folder / "audit.head").read_text())
            file.writelines(json.dumps(head) + "\n" for _ in range(records // 10))
        trails.judge(folder)
        tracemalloc.start()
        assert trails.judge(folder).records == records + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000


def test_a_trail_that_is_being_written_is_verified_as_it_stood(home):
    """The anchors are read first: what is written meanwhile is no fault, neither there nor here."""
    with contextlib.closing(trails.opened(home)) as database:
        for number in range(20):
            database.append([trails.event(number)])
            anchors = Anchors(home)
            with contextlib.closing(Reader(home)) as reader:
                database.append([trails.event(1000 + number)])
                found = verify(reader, None, anchors)
            assert (found.good, found.last) == (True, 2 * number + 2)
