"""``otel-perf audit``: 0 the trail is whole, 1 it is not or cannot be read, 2 wrong usage."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_perf.cli import BAD, GOOD, USAGE, options, progress, tell
from otel_perf.core.errors import AuditError, SettingError
from otel_perf.logs.audit import chain
from otel_perf.logs.audit.reader import Reader

if TYPE_CHECKING:
    import argparse

    from otel_perf.logs.audit.database import Database
    from otel_perf.logs.audit.verify import Verdict

_FILTERS = ("name", "actor", "target", "outcome")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        made.add_argument("--home", type=Path, help="home folder (default: $OTEL_PERF_HOME or .otel-perf)")
        options.add_json(made)
        return made

    verify = action("verify", "check every record, and that none is missing, with the public key alone")
    verify.add_argument("--key", help="the public key you trust, 64 hex digits or a file (default: audit.pub)")
    verify.add_argument(
        "--expect-head", action="append", default=[], metavar="SEQ:HASH", help="a record that must be there"
    )
    verify.add_argument(
        "--checkpoints", action="append", type=Path, default=[], metavar="FILE",
        help="checkpoints kept elsewhere, besides audit.checkpoints",
    )  # fmt: skip
    verify.add_argument("--open-end", action="store_true", help="accept that audit.head is missing")
    show = action("show", "show records, the newest last")
    show.add_argument("--last", type=options.rows, default=50, help="how many (default 50)")
    for name in _FILTERS:
        show.add_argument(f"--{name}", help=f"only with this {name}")
    show.add_argument("--since", type=options.duration, help="only of this time, like 10m or 2h")
    show.add_argument("--all", action="store_true", help="also records of the trail itself, such as heartbeats")
    export = action("export", "write every record with its hash and signature as JSON lines")
    export.add_argument("--after", type=int, default=0, metavar="SEQ", help="only records after this one")
    action("checkpoint", "print the signed end of the trail, to be kept elsewhere")
    keys = action("keys", "show the public keys that sign the trail")
    keys.add_argument("--rotate", action="store_true", help="begin to sign with a new key, and destroy the old one")
    cut = action("cut", "remove old records, with a signed record that says so")
    cut.add_argument("--older-than", type=options.duration, required=True, help="like 365d")


def execute(arguments: argparse.Namespace) -> int:
    """Run one action."""
    actions = {
        "verify": _verify, "show": _show, "export": _export, "checkpoint": _checkpoint, "keys": _keys, "cut": _cut,
    }  # fmt: skip
    try:
        return actions[arguments.action](arguments)
    except SettingError as error:
        print(f"otel-perf audit: {error}", file=sys.stderr)
        return USAGE
    except sqlite3.Error as error:
        raise AuditError(f"the trail in {_folder(arguments)}: {error}; see otel-perf audit verify") from error


def _folder(arguments: argparse.Namespace) -> Path:
    return options.home_of(arguments).path


def _verify(arguments: argparse.Namespace) -> int:
    from otel_perf.logs.audit.anchors import Anchors, expected
    from otel_perf.logs.audit.events import settings
    from otel_perf.logs.audit.verify import verify

    folder = _folder(arguments)
    trusted = _trusted(arguments, folder)
    heads = [expected(text) for text in arguments.expect_head]
    files = [*arguments.checkpoints]
    configured = settings(os.environ).audit_checkpoints
    is_there = not configured or os.path.lexists(configured)
    if configured and is_there:
        files.append(Path(configured))
    anchors = Anchors(folder, heads=heads, files=files, open_end=arguments.open_end)
    reader = Reader(folder)
    try:
        verdict = verify(
            reader, trusted, anchors, lambda rows: progress.watched(rows, "records checked", reader.size())
        )
    finally:
        reader.close()
    if not is_there:
        verdict.notes.append(f"{configured}, where checkpoints are kept, is missing: none of it was compared")
    shown = json.dumps(asdict(verdict), indent=2) if arguments.json else render(verdict)
    return tell(shown, GOOD if verdict.good else BAD)


def _trusted(arguments: argparse.Namespace, folder: Path) -> bytes | None:
    """The key that is given, or that lies beside the file."""
    from otel_perf.logs.audit.keys import PUBLIC_FILE, public_key

    if arguments.key:
        return public_key(arguments.key)
    usual = folder / PUBLIC_FILE
    if not usual.exists():
        return None
    try:
        return public_key(str(usual))
    except SettingError as error:
        raise AuditError(f"{error}; --key gives the one you trust") from error


def render(verdict: Verdict) -> str:
    """The answer as text for a terminal."""
    lines = [f"{'good' if verdict.good else 'BAD'}: {_answer(verdict)}"]
    lines.append(f"  trail {verdict.trail or 'unknown'}, records {verdict.first:,} to {verdict.last:,}")
    if verdict.removed:
        lines.append(f"  {verdict.removed:,} older records were removed by a signed cut")
    if verdict.good and verdict.last_time:
        lines.append(f"  head {verdict.last}:{verdict.head}")
        lines.append(f"  the last record is of {_time(verdict.last_time)}")
        lines.append(f"  processes: {verdict.opened:,} began to write, {verdict.closed:,} ended in good order")
    if verdict.key:
        lines.append(f"  key {verdict.key}")
    return "\n".join([*lines, *(f"  note: {note}" for note in verdict.notes)])


def _answer(verdict: Verdict) -> str:
    if not verdict.good:
        return f"record {verdict.first_bad}: {verdict.reason}"
    return f"{verdict.records:,} records, chained and {'signed' if verdict.signed else 'unsigned'}"


def _time(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds} ns"


def _record(row: tuple[Any, ...]) -> dict[str, Any]:
    """A record as it is shown; what was tampered with is shown as far as it goes."""
    seq, made, kind, body, digest, seal = row
    try:
        content = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        content = repr(body)
    return {
        "seq": seq,
        "time": made if isinstance(made, int) else repr(made),
        "kind": kind.decode("ascii", "replace") if isinstance(kind, bytes) else repr(kind),
        "body": content,
        "hash": digest.hex() if isinstance(digest, bytes) else repr(digest),
        "seal": seal.hex() if isinstance(seal, bytes) else None,
    }


def _show(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in _FILTERS if (value := getattr(arguments, name)) is not None}
    since = 0 if arguments.since is None else time.time_ns() - int(arguments.since * 1e9)
    reader = Reader(_folder(arguments))
    try:
        found = (
            record
            for record in map(_record, reader.newest())
            if _is_wanted(record, wanted, since, everything=arguments.all)
        )
        kept = list(islice(found, arguments.last))
    finally:
        reader.close()
    for record in reversed(kept):
        print(json.dumps(record) if arguments.json else _line(record))
    return GOOD


def _is_wanted(record: dict[str, Any], wanted: dict[str, str], since: int, *, everything: bool) -> bool:
    if not everything and record["kind"] != chain.EVENT:
        return False
    if since and not (isinstance(record["time"], int) and record["time"] >= since):
        return False
    body = record["body"] if isinstance(record["body"], dict) else {}
    return all(body.get(name) == value for name, value in wanted.items())


def _line(record: dict[str, Any]) -> str:
    body = record["body"] if isinstance(record["body"], dict) else {"body": record["body"]}
    made = _time(record["time"]) if isinstance(record["time"], int) else repr(record["time"])
    if record["kind"] != chain.EVENT:
        return f"{record['seq']}  {made}  [{record['kind']}]  {json.dumps(body)}"
    # As JSON where it is somebody's text: a terminal must not be told what to do by a name.
    who = "  ".join(f"{name}={json.dumps(body.get(name))}" for name in ("actor", "target", "outcome"))
    rest = {key: body[key] for key in ("fields", "trace", "correlation") if key in body}
    return f"{record['seq']}  {made}  {json.dumps(body.get('name'))}  {who}{'  ' + json.dumps(rest) if rest else ''}"


def _export(arguments: argparse.Namespace) -> int:
    reader = Reader(_folder(arguments))
    try:
        for row in reader.rows(arguments.after):
            sys.stdout.write(json.dumps(_record(row)) + "\n")
    finally:
        reader.close()
    return GOOD


def _checkpoint(arguments: argparse.Namespace) -> int:
    reader = Reader(_folder(arguments))
    try:
        found = reader.checkpoint()
    except (TypeError, ValueError, AttributeError) as error:
        raise AuditError(f"{reader.path} was changed: see otel-perf audit verify") from error
    finally:
        reader.close()
    if not arguments.json:
        signed = "signed" if found.seal else "unsigned"
        print(f"# {signed}; keep the next line, for verify --checkpoints; or --expect-head {found.seq}:{found.hash}")
    print(found.line())
    return GOOD


def _keys(arguments: argparse.Namespace) -> int:
    if arguments.rotate:
        database = _open(arguments)
        try:
            from otel_perf.logs.audit.database import retrying

            retrying(database.rotate)
        finally:
            database.close()
    reader = Reader(_folder(arguments))
    try:
        found = [{"since": key.seq, "public": key.public.hex()} for key in reader.signers()]
    except AttributeError as error:
        raise AuditError(f"{reader.path} was changed: see otel-perf audit verify") from error
    finally:
        reader.close()
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("the trail is not signed: pip install 'otel-perf[audit]'")
    else:
        print("\n".join(f"{key['public']}  from record {key['since']}" for key in found))
    return GOOD


def _cut(arguments: argparse.Namespace) -> int:
    from otel_perf.logs.audit.database import retrying

    database, removed = _open(arguments), 0
    before = time.time_ns() - int(arguments.older_than * 1e9)
    try:
        while count := retrying(lambda: database.cut(before, "otel-perf audit cut")):
            removed += count
    finally:
        database.close()
    print(json.dumps({"removed": removed}) if arguments.json else f"removed {removed:,} records")
    return GOOD


def _open(arguments: argparse.Namespace) -> Database:
    """The trail for writing; it must be there."""
    from otel_perf.logs.audit.connection import open_database
    from otel_perf.logs.audit.events import settings

    folder = _folder(arguments)
    Reader(folder).close()
    return open_database(folder, settings(os.environ), lambda line: print(line, file=sys.stderr))
