"""What is old is removed, and the removal proves itself."""

import contextlib

import pytest

from otel_perf.logs.audit import chain, database
from otel_perf.logs.audit.database import AUDIT_FILE
from tests.logs.audit import trails


def cut(home, before, reason="old"):
    removed = 0
    with contextlib.closing(trails.opened(home)) as opened:
        while count := opened.cut(before, reason):
            removed += count
    return removed


def aged(home, *commits):
    """Records of 100 ns each, so that a point in time is a record."""
    with contextlib.closing(trails.opened(home)) as opened:
        number = 0
        for size in commits:
            opened.append([trails.event(number + place, at=100 * (number + place + 1)) for place in range(size)])
            number += size


@pytest.fixture
def grown(home, monkeypatch):
    """Ten records of the times 100 to 1000, after the key's, in three commits."""
    monkeypatch.setattr(database.time, "time_ns", lambda: 1)
    aged(home, 3, 3, 4)
    monkeypatch.setattr(database.time, "time_ns", lambda: 5000)
    return home


def test_a_cut_is_signed_and_names_what_it_removed(grown):
    before = trails.rows(grown)
    assert cut(grown, 500, "more than we may keep") == 5
    (found,) = trails.bodies(grown, chain.CUT).values()
    assert found == {
        "count": 5, "first": 1, "last": 400, "through": 5, "hash": before[4].hash.hex(), "seal": None,
        "reason": "more than we may keep",
    }  # fmt: skip
    assert [row.seq for row in trails.rows(grown)] == [*range(6, 13)]
    verdict = trails.judge(grown)
    assert (verdict.good, verdict.removed, verdict.first, verdict.last) == (True, 5, 6, 12), verdict.reason


def test_cuts_follow_cuts_and_keys(grown):
    with contextlib.closing(trails.opened(grown)) as opened:
        opened.rotate()
        opened.append([trails.event(20, at=6000)])
    first = bytes.fromhex(next(iter(trails.bodies(grown, chain.KEY).values()))["public"])
    for before in (200, 400, 700, 1001, 5500, 7000):
        cut(grown, before)
        for key in (None, first):
            verdict = trails.judge(grown, key=key)
            assert verdict.good, verdict.reason
    assert cut(grown, 10**18) == 0, "a cut that would remove only cuts is none"
    with contextlib.closing(trails.opened(grown)) as opened:
        opened.append([trails.event(21, at=8000)])
    assert trails.judge(grown, key=first).good


def test_everything_may_be_old(grown):
    assert cut(grown, 4000) == 11
    assert [row.kind for row in trails.rows(grown)] == [chain.CUT]
    with contextlib.closing(trails.opened(grown)) as opened:
        opened.append([trails.event(1)])
    verdict = trails.judge(grown)
    assert (verdict.good, verdict.first, verdict.last) == (True, 12, 13)


def test_much_is_removed_in_slices(grown, monkeypatch):
    monkeypatch.setattr(database, "CUT_SLICE", 3)
    assert cut(grown, 900) == 9
    assert len(trails.bodies(grown, chain.CUT)) == 3
    assert trails.judge(grown).good


def test_nothing_old_is_nothing_done(grown):
    assert cut(grown, 1) == 0
    assert trails.bodies(grown, chain.CUT) == {}


def test_what_was_removed_is_not_in_the_file_any_more(home, monkeypatch):
    monkeypatch.setattr(database.time, "time_ns", lambda: 1)
    with contextlib.closing(trails.opened(home)) as opened:
        opened.append([trails.event(number, at=5, secret="a person's name") for number in range(2000)])
        size = (home / AUDIT_FILE).stat().st_size
        opened.append([trails.event(1, at=50)])
    assert cut(home, 10) == 2001
    for path in home.iterdir():
        assert b"a person's name" not in path.read_bytes(), path
    assert (home / AUDIT_FILE).stat().st_size < size or size < 100_000
    assert trails.judge(home).good


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("DELETE FROM record WHERE seq <= 2", 1),  # no cut at all
        ("UPDATE trail SET cut = 2", 3),
        ("UPDATE trail SET hash = zeroblob(32)", 1),
        ("UPDATE trail SET id = 'x'", 1),
        ("DELETE FROM trail", 1),
        ("INSERT INTO trail SELECT * FROM trail", 1),
        ("UPDATE trail SET seal = zeroblob(64)", 1),
    ],
)
def test_a_beginning_that_was_removed_without_a_cut_is_found(grown, statement, bad):
    with trails.tampering(grown) as connection:
        connection.execute(statement)
    verdict = trails.judge(grown)
    assert (verdict.good, verdict.first_bad) == (False, bad), verdict.reason


def test_a_beginning_that_was_removed_with_a_forged_point_is_found(grown):
    """Somebody without a key points the file to a later record, whose hash they know."""
    row = trails.rows(grown)[4]
    with trails.tampering(grown) as connection:
        connection.execute("DELETE FROM record WHERE seq <= 5")
        connection.execute("UPDATE trail SET cut = 5, hash = ?, seal = ?", (row.hash, row.seal))
    verdict = trails.judge(grown)
    assert (verdict.good, verdict.first_bad) == (False, 1)
    assert "missing at the beginning" in verdict.reason


@pytest.mark.parametrize("through", [3, 7])
def test_a_cut_that_is_moved_is_found(grown, through):
    before = trails.rows(grown)
    cut(grown, 500)
    with trails.tampering(grown) as connection:
        row = before[through - 1]
        connection.execute("DELETE FROM record WHERE seq <= ?", (through,))
        for again in before[through:5]:
            connection.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", again)
        connection.execute("UPDATE trail SET cut = ?, hash = ?, seal = ?", (through, row.hash, row.seal))
    assert not trails.judge(grown).good


def test_an_expected_head_from_before_the_cut_is_noted(grown):
    from otel_perf.logs.audit.anchors import Expected

    head = trails.rows(grown)[2]
    cut(grown, 500)
    verdict = trails.judge(grown, heads=[Expected(head.seq, head.hash.hex())])
    assert verdict.good
    assert "removed by a signed cut" in verdict.notes[-1]
