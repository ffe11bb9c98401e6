"""The home folder: where the store, the signal board and the audit trail are kept."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME_VARIABLE: Final = "OTEL_PERF_HOME"
STORE_FILE: Final = "telemetry.db"
DEFAULT_HOME: Final = ".otel-perf"
_FALLBACK: Final = "otel-perf-"  # and the user's number


class Home:
    """``OTEL_PERF_HOME``, made on first use with mode 0700 and a ``.gitignore`` of ``*``.

    The path is made absolute at start, so that a later ``chdir`` (daemons, gunicorn) does not split it.
    """

    __slots__ = ("_named", "path")

    def __init__(self, environ: Mapping[str, str]) -> None:
        named = environ.get(HOME_VARIABLE, "").strip()
        self.path = Path(os.path.abspath(named or DEFAULT_HOME))
        self._named = bool(named)

    def make(self) -> Path:
        """Make the folder if it is missing. Raises ``OSError`` if it cannot be made or written."""
        make_private(self.path)
        if self.is_a_trap():
            raise PermissionError(f"it belongs to another user; {HOME_VARIABLE} chooses a folder")
        return self.path

    def is_a_trap(self) -> bool:
        """Whether it is another user's and nobody chose it: in a working folder that others may write to."""
        return not self._named and hasattr(os, "getuid") and self.path.lstat().st_uid != os.getuid()

    def fallback(self) -> Path:
        """Make a private folder under the system's temporary one, for a home that cannot be written.

        Each home has its own. Raises ``PermissionError`` if somebody else could read or redirect what is written there.
        """
        path = self._fallback_path()
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        _check_private(path.parent)
        make_private(path)
        return path

    def with_file(self, name: str) -> Path:
        """The folder in which a reader finds ``name``: the home, or its fallback where only that has it."""
        if (self.path / name).exists():
            return self.path
        return self.fallback_with(name) or self.path

    def fallback_with(self, name: str) -> Path | None:
        """The fallback, if it has ``name``: the home could not be used at some time."""
        try:
            _check_private(_fallbacks())  # first: where there are none, hashlib stays out of a start
            fallback = self._fallback_path()
            return fallback if (fallback / name).exists() else None
        except OSError:
            return None

    def other_fallbacks(self) -> list[Path]:
        """The fallbacks of this user's other homes, those of them that are private."""
        own, found = self._fallback_path(), []
        with contextlib.suppress(OSError):
            _check_private(own.parent)
            for path in own.parent.iterdir():
                with contextlib.suppress(OSError):
                    _check_private(path)
                    found += [path] if path.name != own.name else []
        return found

    def fallbacks_of_others(self) -> list[Path]:
        """This home's fallbacks of other users, of whom root may have started programs as; for root alone."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return []
        own, found = self._fallback_path(), []
        with contextlib.suppress(OSError):
            for name in os.listdir(own.parent.parent):
                user = name.removeprefix(_FALLBACK)
                if name.startswith(_FALLBACK) and user.isdecimal() and name != own.parent.name:
                    path = own.parent.with_name(name) / own.name
                    with contextlib.suppress(OSError):
                        _check_private(path.parent, int(user))
                        _check_private(path, int(user))
                        found.append(path)
        return found

    def _fallback_path(self) -> Path:
        import hashlib

        return _fallbacks() / hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]


def _fallbacks() -> Path:
    """The folder of all fallbacks of this user."""
    import tempfile

    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"{_FALLBACK}{user}"


def _check_private(path: Path, owner: int | None = None) -> None:
    """Refuse a folder that is not the user's own, or ``owner``'s, or open to others.

    The temporary folder is shared: somebody else may have made ours first, to read what we write or to have it
    written through a link.
    """
    found = path.lstat()
    if owner is None and hasattr(os, "getuid"):
        owner = os.getuid()
    if not stat.S_ISDIR(found.st_mode) or owner not in {None, found.st_uid}:
        raise PermissionError(f"{path} belongs to another user")
    if hasattr(os, "getuid") and found.st_mode & 0o077:
        raise PermissionError(f"{path} is open to others")


def make_private(path: Path) -> None:
    """Make ``path`` with mode 0700 and keep it out of version control."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path / ".gitignore", flags, 0o600)
        try:
            os.write(handle, b"*\n")
        finally:
            os.close(handle)
