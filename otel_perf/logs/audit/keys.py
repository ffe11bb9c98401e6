"""Ed25519 keys: made on first use, kept in a file of mode 0600, changed by a record that the old key signed.

``cryptography`` is imported when the first signature is made or checked (about 40 ms).
"""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.errors import AuditError, MissingExtraError, SettingError
from otel_perf.logs.audit.chain import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_FILE: Final = "audit.key"
PUBLIC_FILE: Final = "audit.pub"
EXTRA: Final = "audit"
INSTALL: Final = "pip install 'otel-perf[audit]'"
_OTHERS: Final = 0o037  # rights on a private key that make it useless; a group may read it: mounted secrets are so


def available() -> bool:
    """Whether signatures can be made and checked here."""
    try:
        return find_spec("cryptography") is not None
    except ValueError:  # a module that was put into sys.modules by hand
        return False


class Signer:
    """A private key in memory."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Any) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """64 bytes; about 50 µs."""
        signature: bytes = self._private.sign(message)
        return signature


def check(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of the private key to ``public`` signed ``message``; about 100 µs."""
    if not available():
        raise MissingExtraError("checking the signatures of an audit trail", EXTRA)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def make(path: Path) -> Signer:
    """Make a key and write it to ``path``. Raises ``OSError``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_safely(path, text)
    return Signer(private)


def load(path: Path) -> Signer:
    """The key in ``path``. Raises ``OSError``, and ``AuditError`` if it is none, or others may read it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        text = file.read(10_000)
    if os.name == "posix" and mode & _OTHERS:
        raise AuditError(f"the private key {path} is open to others: chmod 600 {path}")
    try:
        private = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise AuditError(f"{path} holds no private key without a password: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise AuditError(f"{path} holds another kind of key; an Ed25519 key is needed")
    return Signer(private)


def public_key(given: str) -> bytes:
    """The public key that a user names: 64 hex digits, or a file with them or with PEM. Raises ``SettingError``."""
    with contextlib.suppress(ValueError):
        if len(found := bytes.fromhex(given)) == KEY_BYTES:
            return found
    try:
        text = Path(given).read_bytes()[:10_000]
    except (OSError, ValueError) as error:
        raise SettingError(f"{given!r} is neither 64 hex digits nor a file that can be read: {error}") from error
    with contextlib.suppress(ValueError):
        if len(found := bytes.fromhex(text.decode("ascii").strip())) == KEY_BYTES:
            return found
    raise SettingError(f"{given} holds no public key; it must hold 64 hex digits, as audit.pub does")


class KeyRing:
    """The keys of a process that writes. Used under the lock of the trail's file: one process at a time makes a key.

    ``say`` is told a line to be said to the user; each kind is said once.
    """

    def __init__(self, folder: Path, path: Path, say: Callable[[str], None]) -> None:
        self._public_path = folder / PUBLIC_FILE
        self._path = path
        self._say = say
        self._signer: Signer | None = None
        self._said = False
        self._published = b""

    def signer(self, current: bytes | None) -> Signer | None:
        """Who signs for the trail whose key is ``current``, or that has none; ``None`` where the extra is missing.

        Raises ``AuditError`` where the trail is signed and the key is not to be had: a record without a signature
        could be anybody's.
        """
        if self._signer is not None and self._signer.public == current:
            return self._signer
        if not available():
            if current is not None:
                raise AuditError(f"the trail is signed, and this process cannot sign: {INSTALL}")
            if not self._said:
                self._said = True
                self._say(f"otel-perf: audit records are chained but not signed: {INSTALL}")
            return None
        try:
            self._signer = self._find(current)
        except AuditError:
            raise
        except OSError as error:
            raise AuditError(f"the private key {self._path} cannot be used: {error}") from error
        return self._signer

    def publish(self, public: bytes) -> None:
        """Have ``audit.pub`` hold ``public``; not before its seal is in the file, or a verifier would miss it."""
        if self._published != public:
            write_public(self._public_path, public)
            self._published = public

    def _find(self, current: bytes | None) -> Signer:
        """The key in the file; made where there is none and the trail has none."""
        if not self._path.exists() and current is None:
            made = make(self._path)
            self._say(
                f"otel-perf: made the key {self._path} that signs the audit trail; its public key is"
                f" {made.public.hex()}: keep it elsewhere, for otel-perf audit verify --key"
            )
            return made
        signer: Signer | None = None
        with contextlib.suppress(FileNotFoundError):
            signer = load(self._path)
        if signer is not None and current in {None, signer.public}:
            return signer
        successor = self._successor_path()
        if successor.exists():  # a rotation was killed between its record and its last step
            found = load(successor)
            if found.public == current:
                successor.replace(self._path)
                return found
        what = "is missing" if signer is None else "is not the one of this trail"
        raise AuditError(
            f"the private key {self._path} {what}: put it back, or move audit.db and audit.head away to begin anew"
        )

    def _successor_path(self) -> Path:
        return self._path.with_name(self._path.name + ".new")

    def make_successor(self) -> Signer:
        """A new key, beside the one in force."""
        if not available():
            raise MissingExtraError("rotating the key of an audit trail", EXTRA)
        try:
            return make(self._successor_path())
        except OSError as error:
            raise AuditError(f"a new key cannot be written beside {self._path}: {error}") from error


def write_public(path: Path, public: bytes) -> None:
    """Keep ``audit.pub`` the newest public key; where that fails, a verifier is given the key."""
    text = public.hex().encode() + b"\n"
    with contextlib.suppress(OSError):
        if not path.exists() or path.read_bytes() != text:
            write_safely(path, text)


def write_safely(path: Path, text: bytes) -> None:
    """Write ``path`` with mode 0600, whole or not at all, also through a loss of power."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()  # left by a process that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(part, flags, 0o600)
    try:
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # a command run by root must not lock the app out
            owner = os.stat(path.parent)
            os.fchown(handle, owner.st_uid, owner.st_gid)
        os.write(handle, text)
        os.fsync(handle)
    finally:
        os.close(handle)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in ``folder`` durable, where the platform can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
