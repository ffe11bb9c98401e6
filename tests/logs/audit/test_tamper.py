"""Whatever is done to a trail without its key is found, at the right record.

Two attackers: one changes the file, and one computes the chain anew as well. The second one's changes are found at the
first signature that does not fit, so that with commits of several records a range is told.
"""

import json
import random
import shutil
from types import SimpleNamespace

import pytest

from otel_perf import cli
from otel_perf.logs.audit.database import AUDIT_FILE
from otel_perf.logs.audit.heads import HEAD_FILE
from tests.logs.audit import trails

PLACES = 500  # of each kind, by both attackers together
RECORDS = 50


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trail with commits of one to four records, how its file was after each, and another trail of the same size."""
    home = tmp_path_factory.mktemp("base") / "home"
    chance, sizes, copies = random.Random(5), [], []
    while sum(sizes) < RECORDS:
        sizes.append(chance.randint(1, 4))
    database = trails.opened(home)
    # One file and no WAL, so that a copy is a copy; verified as it is.
    database._connection.execute("PRAGMA journal_mode = DELETE")
    database._connection.execute("PRAGMA synchronous = OFF")
    number = 0
    for size in sizes:
        database.append([trails.event(number + place) for place in range(size)])
        number += size
        copies.append((home / AUDIT_FILE).read_bytes())
    database.close()
    other = tmp_path_factory.mktemp("other") / "home"
    trails.fill(other, [len(trails.rows(home)) - 1], first=1000)
    found = trails.rows(home)
    assert trails.judge(home).good
    return SimpleNamespace(
        home=home, rows=found, trail=trails.judge(home).trail, copies=copies, other=trails.rows(other)
    )


@pytest.fixture
def verdict(base, tmp_path, capsys):
    """Verify what is left of the trail as the command does, after ``tamper``; the file is restored each time."""
    home = tmp_path / "victim"
    shutil.copytree(base.home, home)
    whole = (home / AUDIT_FILE).read_bytes()

    def verdict(tamper):
        (home / AUDIT_FILE).write_bytes(whole)
        with trails.tampering(home) as connection:
            tamper(connection)
        return command(home)

    def command(home=home):
        status = cli.main(["audit", "verify", "--home", str(home), "--json"])
        out, err = capsys.readouterr()
        if not out:  # it cannot be read at all
            assert (status, "cannot be read" in err) == (1, True), err
            return None
        found = SimpleNamespace(**json.loads(out))
        assert status == (0 if found.good else 1)
        return found

    verdict.command, verdict.home = command, home
    return verdict


def edited(row, chance):
    """The row with one of its parts changed, never to what it was."""
    part = chance.choice(["time", "kind", "body", "hash", "seal"])
    if part == "time":
        return row._replace(time=row.time + 1)
    if part == "kind":
        return row._replace(kind="beat" if row.kind != "beat" else "open")
    if part == "seal":
        return row._replace(seal=bytes(64) if row.seal is None else None)
    value = bytearray(getattr(row, part))
    value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
    return row._replace(**{part: bytes(value)})


def is_exact(found, place):
    assert not found.good
    assert (found.first_bad, found.last_bad) == (place, place), found.reason


def is_in_range(found, place, rows):
    """The range begins after the last signature that still fits, and ends with the first that does not."""
    assert not found.good
    assert found.first_bad <= place <= found.last_bad, found.reason
    assert found.last_bad - found.first_bad < 9
    before = [row.seq for row in rows if row.seal is not None and row.seq < place]
    assert found.first_bad == max(before, default=0) + 1


@pytest.mark.parametrize("clever", [False, True], ids=["plain", "rechained"])
def test_an_edit_is_found(base, verdict, clever):
    chance = random.Random(1)
    for _ in range(PLACES // 2):
        place = chance.randrange(len(base.rows))
        rows = list(base.rows)
        if clever:
            rows[place] = rows[place]._replace(time=rows[place].time + 1)
            found = verdict(lambda connection, rows=rows: trails.put(connection, trails.rechained(base.trail, rows)))
            is_in_range(found, place + 1, base.rows)
        else:
            rows[place] = edited(rows[place], chance)
            found = verdict(lambda connection, rows=rows: trails.put(connection, rows))
            is_exact(found, place + 1)


def test_a_forged_signature_is_found(base, verdict):
    for place, row in enumerate(base.rows):
        if row.seal is not None:
            rows = list(base.rows)
            rows[place] = row._replace(seal=bytes([row.seal[0] ^ 1, *row.seal[1:]]))
            is_in_range(verdict(lambda connection, rows=rows: trails.put(connection, rows)), place + 1, base.rows)


@pytest.mark.parametrize("clever", [False, True], ids=["plain", "rechained"])
def test_a_deleted_record_is_found(base, verdict, clever):
    chance = random.Random(2)
    for _ in range(PLACES // 2):
        place = chance.randrange(len(base.rows) - 1)
        rows = [row for number, row in enumerate(base.rows) if number != place]
        if clever:
            found = verdict(lambda connection, rows=rows: trails.put(connection, trails.rechained(base.trail, rows)))
            is_in_range(found, place + 1, base.rows)
        else:
            found = verdict(
                lambda connection, place=place: connection.execute("DELETE FROM record WHERE seq = ?", (place + 1,))
            )
            is_exact(found, place + 1)
            assert "missing" in found.reason


@pytest.mark.parametrize("clever", [False, True], ids=["plain", "rechained"])
def test_an_inserted_record_is_found(base, verdict, clever):
    chance = random.Random(3)
    forged = base.rows[4]._replace(body=b'{"actor":"nobody"}', seal=None)
    for _ in range(PLACES // 2):
        place = chance.randrange(1, len(base.rows))
        rows = [*base.rows[:place], forged, *base.rows[place:]]
        if clever:
            found = verdict(lambda connection, rows=rows: trails.put(connection, trails.rechained(base.trail, rows)))
            is_in_range(found, place + 1, base.rows)
        else:
            rows = [row._replace(seq=seq) for seq, row in enumerate(rows, 1)]
            found = verdict(lambda connection, rows=rows: trails.put(connection, rows))
            is_exact(found, place + 1)


@pytest.mark.parametrize("clever", [False, True], ids=["plain", "rechained"])
def test_records_in_another_order_are_found(base, verdict, clever):
    chance = random.Random(4)
    for _ in range(PLACES // 2):
        first, second = sorted(chance.sample(range(1, len(base.rows)), 2))
        rows = list(base.rows)
        one, two = rows[first], rows[second]
        rows[first], rows[second] = two._replace(seq=one.seq), one._replace(seq=two.seq)
        if clever:
            rows[first], rows[second] = rows[first]._replace(seal=one.seal), rows[second]._replace(seal=two.seal)
            rows = trails.rechained(base.trail, rows)
            is_in_range(verdict(lambda connection, rows=rows: trails.put(connection, rows)), first + 1, base.rows)
        else:
            is_exact(verdict(lambda connection, rows=rows: trails.put(connection, rows)), first + 1)


def test_a_tail_that_was_cut_is_found(base, verdict):
    chance = random.Random(5)
    for _ in range(PLACES):
        place = chance.randrange(1, len(base.rows))
        found = verdict(
            lambda connection, place=place: connection.execute("DELETE FROM record WHERE seq > ?", (place,))
        )
        assert not found.good
        assert (found.first_bad, found.last_bad) == (place + 1, len(base.rows))
        assert "missing at the end" in found.reason


@pytest.mark.parametrize("clever", [False, True], ids=["plain", "rechained"])
def test_records_from_another_trail_are_found(base, verdict, clever):
    chance = random.Random(6)
    for _ in range(PLACES // 2):
        place = chance.randrange(1, len(base.rows))
        end = chance.randrange(place, len(base.rows)) + 1
        rows = [*base.rows[:place], *base.other[place:end], *base.rows[end:]]
        if clever:
            rows = trails.rechained(base.trail, rows)
            found = verdict(lambda connection, rows=rows: trails.put(connection, rows))
            assert not found.good
            assert found.first_bad <= place + 1 <= found.last_bad
        else:
            is_exact(verdict(lambda connection, rows=rows: trails.put(connection, rows)), place + 1)


def test_an_older_copy_of_the_file_is_found(base, verdict):
    chance = random.Random(7)
    for _ in range(PLACES):
        number = chance.randrange(len(base.copies) - 1)
        (verdict.home / AUDIT_FILE).write_bytes(base.copies[number])
        left = len(trails.rows(verdict.home))
        found = verdict.command()
        assert not found.good
        assert (found.first_bad, found.last_bad) == (left + 1, len(base.rows))


def test_a_flipped_bit_anywhere_in_the_file_is_found_or_changes_nothing(base, verdict):
    """Parts of the file hold nothing: free space in a page, counters. What is good then reads as it was written."""
    chance, whole, harmless = random.Random(8), bytearray((base.home / AUDIT_FILE).read_bytes()), 0
    for _ in range(PLACES):
        offset, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        changed = bytearray(whole)
        changed[offset] ^= bit
        (verdict.home / AUDIT_FILE).write_bytes(changed)
        found = verdict.command()
        if found is not None and found.good:
            harmless += 1
            assert trails.rows(verdict.home) == base.rows
    assert 0 < harmless < PLACES


def test_another_trail_in_its_place_is_found(base, verdict, tmp_path):
    trails.fill(tmp_path / "new", [5])
    (verdict.home / AUDIT_FILE).write_bytes((tmp_path / "new" / AUDIT_FILE).read_bytes())
    found = verdict.command()
    assert (found.good, found.first_bad) == (False, 1)
    assert "other keys" in found.reason
    shutil.copy(tmp_path / "new" / "audit.pub", verdict.home)
    found = verdict.command()
    assert (found.good, found.first_bad) == (False, 1)
    assert "another trail" in found.reason


def test_a_trail_that_was_put_back_together_with_its_head_is_found_by_what_was_kept_elsewhere(base, verdict, capsys):
    """The honest limit: somebody who can write the whole folder, and a checkpoint out of their reach."""
    last = base.rows[-1]
    older = next(row for row in reversed(base.rows[:-5]) if row.seal is not None)
    (verdict.home / HEAD_FILE).unlink()

    def tamper(connection):
        connection.execute("DELETE FROM record WHERE seq > ?", (older.seq,))

    found = verdict(tamper)
    assert (found.good, found.first_bad) == (False, older.seq + 1), "a head that is missing is a reason"
    assert trails.judge(verdict.home, open_end=True).good, "unless that is accepted"
    head = (base.home / HEAD_FILE).read_text().replace(last.hash.hex(), older.hash.hex())
    head = head.replace(last.seal.hex(), older.seal.hex()).replace(f'"seq": {last.seq}', f'"seq": {older.seq}')
    (verdict.home / HEAD_FILE).write_text(head)
    assert trails.judge(verdict.home).good, "nothing in the folder shows it"
    (verdict.home.parent / "elsewhere").write_bytes((base.home / HEAD_FILE).read_bytes().strip() + b"\n")
    command = ["audit", "verify", "--home", str(verdict.home)]
    assert cli.main([*command, "--checkpoints", str(verdict.home.parent / "elsewhere")]) == 1
    assert f"BAD: record {older.seq + 1}: records are missing at the end" in capsys.readouterr().out
    assert cli.main([*command, "--expect-head", f"{last.seq}:{last.hash.hex()}"]) == 1
    assert cli.main([*command, "--expect-head", f"{older.seq}:{older.hash.hex()}"]) == 0
    assert cli.main([*command, "--expect-head", f"{older.seq}:{'0' * 64}"]) == 1
    capsys.readouterr()
