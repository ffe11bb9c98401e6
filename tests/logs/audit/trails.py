"""Makes trails without waiting for threads, reads them, and tampers with them."""

import contextlib
import json
import sqlite3

from otel_perf.logs.audit import chain
from otel_perf.logs.audit.anchors import Anchors
from otel_perf.logs.audit.database import AUDIT_FILE, Database, New
from otel_perf.logs.audit.encoding import canonical
from otel_perf.logs.audit.heads import CHECKPOINTS_FILE, Heads
from otel_perf.logs.audit.keys import KEY_FILE, PUBLIC_FILE, KeyRing, public_key
from otel_perf.logs.audit.reader import Reader
from otel_perf.logs.audit.verify import verify

START_NS = 1_700_000_000_000_000_000


def opened(home):
    """A connection for writing, without a thread."""
    home.mkdir(mode=0o700, exist_ok=True)
    return Database(home, KeyRing(home, home / KEY_FILE, lambda line: None), Heads(home, home / CHECKPOINTS_FILE))


def event(number, at=None, **fields):
    """A record as audit_event makes it."""
    content = {"name": "t", "actor": f"a{number}", "target": "x", "outcome": "success", "process": "1-a"}
    return New(chain.EVENT, canonical(content | {"fields": {"n": number, **fields}}), at or START_NS + number)


def fill(home, commits, *, first=0):
    """Commits of so many records each, numbered from ``first``, without waiting for the disk."""
    with contextlib.closing(opened(home)) as database:
        database._connection.execute("PRAGMA synchronous = OFF")
        for size in commits:
            database.append([event(first + place) for place in range(size)])
            first += size


def judge(home, *, key=None, **options):
    """The verdict, with the key that lies beside the file unless another is given."""
    if key is None and (home / PUBLIC_FILE).exists():
        key = public_key(str(home / PUBLIC_FILE))
    anchors = Anchors(home, **options)
    with contextlib.closing(Reader(home)) as reader:
        return verify(reader, key, anchors)


def rows(home):
    """Every record as it stands in the file."""
    with contextlib.closing(Reader(home)) as reader:
        return [chain.Row(seq, time, str(kind, "ascii"), *rest) for seq, time, kind, *rest in reader.rows()]


def bodies(home, kind=chain.EVENT):
    """The bodies of the records of one kind, by number."""
    return {row.seq: json.loads(row.body) for row in rows(home) if row.kind == kind}


@contextlib.contextmanager
def tampering(home):
    """A connection as an attacker has it: no lock, no sync."""
    with contextlib.closing(sqlite3.connect(home / AUDIT_FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def rechained(trail, found):
    """The same records with hashes that fit, as whoever has no key can make them: seals stay what they were."""
    before, seal, made = chain.start(trail), None, []
    for seq, row in enumerate(found, 1):
        before = chain.link(before, seal, seq, row.time, row.kind, row.seal is not None, row.body)
        seal = row.seal
        made.append(row._replace(seq=seq, hash=before))
    return made


def put(connection, found):
    """Replace all records."""
    connection.execute("DELETE FROM record")
    connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", found)
