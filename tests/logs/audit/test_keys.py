"""Keys: made once, private, changed with the consent of the one before."""

import contextlib
import stat
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import otel_perf as perf
from otel_perf.core.errors import AuditError, SettingError
from otel_perf.logs.audit import chain, events, keys
from otel_perf.logs.audit.database import retrying
from otel_perf.logs.audit.keys import public_key
from tests.logs.audit import trails


def record():
    return perf.audit_event("x", actor="a", target="t", outcome="ok")


def rotate(home):
    with contextlib.closing(trails.opened(home)) as database:
        return retrying(database.rotate)


def private(path):
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def test_the_key_is_made_once_and_private(home):
    record()
    made = (home / "audit.key").read_bytes()
    assert stat.S_IMODE((home / "audit.key").stat().st_mode) == 0o600
    assert private(home / "audit.key").public_key().public_bytes_raw().hex() == (home / "audit.pub").read_text().strip()
    events.close()
    record()
    assert (home / "audit.key").read_bytes() == made
    assert len(trails.bodies(home, chain.KEY)) == 1


def test_a_rotation_is_trusted_by_who_trusts_either_key(home):
    record()
    first = public_key(str(home / "audit.pub"))
    old = (home / "audit.key").read_bytes()
    head = rotate(home)
    second = public_key(str(home / "audit.pub"))
    assert first != second
    assert head.key == second.hex()
    assert (home / "audit.key").read_bytes() != old, "the old key is gone"
    assert not (home / "audit.key.new").exists()
    assert record() == head.seq + 1, "a process that has the old key takes the new one"
    rotate(home)
    third = public_key(str(home / "audit.pub"))
    record()
    for key in (first, second, third):
        found = trails.judge(home, key=key)
        assert (found.good, found.keys) == (True, 3), found.reason
    assert trails.judge(home, key=bytes(32)).reason.startswith("the trail is signed by other keys")


def test_a_trail_may_begin_with_a_rotation(home):
    rotate(home)
    assert trails.judge(home).good
    assert trails.judge(home).keys == 2


def test_processes_that_write_while_the_key_changes_go_on(home):
    stop, errors = threading.Event(), []

    def work():
        try:
            while not stop.is_set():
                record()
        except AuditError as error:
            errors.append(error)

    record()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        rotate(home)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    found = trails.judge(home)
    assert (found.good, found.keys) == (True, 11), found.reason


def test_a_rotation_that_was_killed_half_way_is_finished_by_the_next_writer(home, monkeypatch):
    record()
    events.close()
    with contextlib.closing(trails.opened(home)) as database:
        monkeypatch.setattr(database, "_settle", lambda: None)
        database.rotate()
    assert (home / "audit.key.new").exists()
    assert trails.judge(home).good
    record()
    assert not (home / "audit.key.new").exists()
    assert trails.judge(home).good


def test_a_new_key_without_consent_is_found(home):
    """Somebody who can write the file, but has no key, announces one of theirs."""
    record()
    events.close()
    with contextlib.closing(trails.opened(home)) as database:
        database.rotate()
    good = trails.rows(home)
    mine = Ed25519PrivateKey.generate()
    public = mine.public_key().public_bytes_raw()
    place = next(row for row in reversed(good) if row.kind == chain.KEY)
    trail = trails.judge(home).trail
    consent = mine.sign(chain.key_message(trail, place.seq, public.hex()))
    body = place.body.replace((home / "audit.pub").read_text().strip().encode(), public.hex().encode())
    with trails.tampering(home) as connection:
        connection.execute("UPDATE signer SET public = ?, consent = ? WHERE seq = ?", (public, consent, place.seq))
        before = good[place.seq - 2]
        digest = chain.link(before.hash, before.seal, place.seq, place.time, chain.KEY, True, body)
        seal = mine.sign(chain.seal_message(trail, place.seq, digest.hex()))
        connection.execute(
            "UPDATE record SET body = ?, hash = ?, seal = ? WHERE seq = ?", (body, digest, seal, place.seq)
        )
    found = trails.judge(home, key=bytes.fromhex(trails.bodies(home, chain.KEY)[1]["public"]))
    assert (found.good, found.first_bad) == (False, place.seq)
    assert "not signed by the key before" in found.reason


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "is missing: put it back"),
        (lambda path: path.chmod(0o644), "is open to others: chmod 600"),
        (lambda path: path.write_text("x"), "holds no private key"),
        (lambda path: keys.make(path), "is not the one of this trail"),
        (
            lambda path: path.write_bytes(
                ec.generate_private_key(ec.SECP256R1()).private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            ),
            "holds another kind of key",
        ),
    ],
)
def test_a_key_that_cannot_be_used_raises_and_nothing_goes_unsigned(home, damage, why):
    record()
    events.close()
    whole = (home / "audit.key").read_bytes()
    damage(home / "audit.key")
    with pytest.raises(AuditError, match=why):
        record()
    assert trails.judge(home).good
    keys.write_safely(home / "audit.key", whole)
    assert record() == 6, "after the first of a process that begins again"
    assert trails.judge(home).good


def test_a_key_of_ones_own(home, tmp_path, monkeypatch):
    signer = keys.make(tmp_path / "mine")
    (tmp_path / "mine").chmod(0o440)
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_KEY", str(tmp_path / "mine"))
    record()
    assert not (home / "audit.key").exists()
    assert trails.judge(home, key=signer.public).good


def test_a_public_key_is_named_in_hex_or_by_a_file(tmp_path):
    public = bytes(range(32))
    (tmp_path / "pub").write_text(public.hex() + "\n")
    assert public_key(public.hex()) == public_key(str(tmp_path / "pub")) == public
    for wrong in ("ab", "", "\0", str(tmp_path), str(tmp_path / "none"), public.hex() + "00"):
        with pytest.raises(SettingError):
            public_key(wrong)
    (tmp_path / "pub").write_bytes(b"\xff" * 64)
    with pytest.raises(SettingError, match="holds no public key"):
        public_key(str(tmp_path / "pub"))


def test_it_is_not_followed_through_a_link(home, tmp_path):
    """In a folder that others may write to, a link leads wherever they like."""
    home.mkdir(mode=0o700)
    (tmp_path / "victim").write_text("mine")
    (home / "audit.db").symlink_to(tmp_path / "victim")
    with pytest.raises(AuditError):
        record()
    assert (tmp_path / "victim").read_text() == "mine"
