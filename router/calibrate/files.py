"""Calibrations on disk, and how all that is learned gets there."""

import os
import tempfile
from pathlib import Path

from policies.calibration import Calibration, decode

MAX_FILE = 4 * 2**20


def neighbours_beside(path: Path) -> Path:
    """Where the labelled prompts of a calibration lie, as vectors, if there are any."""
    return path.with_name(f"{path.name}.neighbours")


def load(path: Path) -> Calibration:
    """ValueError, in words, when the file cannot be read or is no calibration."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ValueError(f"cannot read the calibration {path}: {reason}") from error
    if len(data) > MAX_FILE:
        raise ValueError(f"{path} is larger than {MAX_FILE // 2**20} MiB: no calibration")
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: Path, *parts: bytes) -> None:
    """Whole, or not at all: a gateway may read it at any moment, and as another user."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
