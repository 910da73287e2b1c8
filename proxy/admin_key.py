"""The key of the admin API: the configured one, or a fresh one that only this user can read.

Without `admin.key` in the configuration the key is written to a file with mode 0600 in the user's
runtime folder, so that `lamplighter models` on the same machine works and a web page does not.
"""

import contextlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path


def runtime_dir(env: Mapping[str, str]) -> Path:
    """$XDG_RUNTIME_DIR/lamplighter, or a folder of this user's among the temporary files."""
    base = env.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / "lamplighter"
    return Path(tempfile.gettempdir()) / f"lamplighter-{os.getuid()}"


def key_file(env: Mapping[str, str], port: int) -> Path:
    return runtime_dir(env) / f"admin-{port}.key"


class AdminKey:
    """What a caller of /admin must show."""

    def __init__(self, configured: str | None) -> None:
        self.generated = configured is None
        self._key = configured or secrets.token_urlsafe(32)
        self._file: Path | None = None

    def matches(self, authorization: str | None) -> bool:
        """Whether `Bearer KEY` is right, in a time that does not tell how nearly."""
        scheme, _, shown = (authorization or "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(), self._key.encode())
        return right and scheme.lower() == "bearer"

    def publish(self, env: Mapping[str, str], port: int) -> Path:
        """Write a generated key where the same user's commands find it. Raises OSError."""
        folder = runtime_dir(env)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
            raise PermissionError(f"{folder} belongs to, or can be read by, somebody else")
        self._file = key_file(env, port)
        temporary = self._file.with_suffix(f".{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            file.write(self._key)
        temporary.replace(self._file)
        return self._file

    def withdraw(self) -> None:
        """Remove the file, unless another gateway has taken the port over meanwhile."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if self._file.read_text() == self._key:
                    self._file.unlink()


def find_key(env: Mapping[str, str], port: int) -> str | None:
    """The key for a gateway on this machine: from the environment, or from its file."""
    given = env.get("LAMPLIGHTER_ADMIN_KEY")
    if given:
        return given
    try:
        return key_file(env, port).read_text()
    except OSError:
        return None
