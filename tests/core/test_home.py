"""The home folder is private, absolute, and out of version control."""

import os
import stat

import pytest

from otel_perf.core.home import HOME_VARIABLE, Home, make_private


def test_it_is_made_private_with_a_gitignore(tmp_path):
    home = Home({"OTEL_PERF_HOME": str(tmp_path / "a" / "b")})
    path = home.make()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert (path / ".gitignore").read_text() == "*\n"
    assert home.make() == path


def test_it_stays_where_it_was_when_the_program_changes_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home({})
    monkeypatch.chdir("/")
    assert home.path == tmp_path / ".otel-perf"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="cannot be written"):
        make_private(tmp_path)


def test_the_fallback_is_a_private_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Home({}).fallback()
    assert path.parent == tmp_path / f"otel-perf-{os.getuid()}"
    assert path.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "otel-perf-12345").mkdir()
    with pytest.raises(PermissionError, match="another user"):
        Home({}).fallback()


def test_a_fallback_that_is_open_to_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"otel-perf-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="open to others"):
        Home({}).fallback()


def test_each_home_has_a_fallback_of_its_own_which_readers_find(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    first, second = (Home({HOME_VARIABLE: str(tmp_path / name)}) for name in ("first", "second"))
    (first.fallback() / "telemetry.db").touch()
    assert first.with_file("telemetry.db") == first.fallback()
    assert second.with_file("telemetry.db") == second.path
    (first.make() / "telemetry.db").touch()
    assert first.with_file("telemetry.db") == first.path


def test_readers_trust_no_fallback_that_others_can_write(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = Home({HOME_VARIABLE: str(tmp_path / "home")})
    (home.fallback() / "telemetry.db").touch()
    (tmp_path / f"otel-perf-{os.getuid()}").chmod(0o777)
    assert home.with_file("telemetry.db") == home.path


def test_root_finds_the_fallbacks_of_other_users_that_are_theirs_and_private(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = Home({HOME_VARIABLE: str(tmp_path / "home")})
    own = home.fallback()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    other, stranger = (os.getuid() + more for more in (1, 2))
    for user in (other, stranger):
        (tmp_path / f"otel-perf-{user}" / own.name).mkdir(mode=0o700, parents=True)
        (tmp_path / f"otel-perf-{user}").chmod(0o700)
    assert home.fallbacks_of_others() == []  # they belong to this user
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    found = tmp_path / f"otel-perf-{other}" / own.name
    os.chown(found.parent, other, -1)
    assert home.fallbacks_of_others() == []
    os.chown(found, other, -1)
    assert home.fallbacks_of_others() == [found]
    found.chmod(0o755)
    assert home.fallbacks_of_others() == []
    found.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    assert home.fallbacks_of_others() == []
