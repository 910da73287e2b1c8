"""Whether the file has changed since the last look. Reads only; when to look is the caller's."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was at one moment, links followed: Kubernetes swaps a link to change one."""

    mtime_ns: int
    size: int
    inode: int
    digest: bytes

    @classmethod
    def of(cls, path: Path) -> "Snapshot | None":
        """None when the file is not there or cannot be read at this moment."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return None
        return cls(status.st_mtime_ns, status.st_size, status.st_ino, digest)


class Watcher:
    """Make it before the file is loaded, so that no change falls between the two."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.snapshot = Snapshot.of(self.path)

    def changed(self) -> bool:
        """True once for each new content; a touched, replaced or vanished file is no change.

        The content is read every time: an edit of equal length within one tick of the file
        system's clock changes nothing else, and a configuration is read in microseconds.
        """
        now = Snapshot.of(self.path)
        if now is None:
            return False
        before, self.snapshot = self.snapshot, now
        return before is None or now.digest != before.digest
