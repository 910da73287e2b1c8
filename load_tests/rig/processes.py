"""Processes that the rig starts: pinned to a core, measured as a tree, and always stopped."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from load_tests.rig.machine import pinned

STOPS_WITHIN_S = 10.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Started:
    """One process and all that it starts, in a group of its own."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system seconds of the tree, with those of children that have ended."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss_bytes(self) -> int:
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def stop(self) -> None:
        for signum, within_s in ((signal.SIGTERM, STOPS_WITHIN_S), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(within_s)
                if signum == signal.SIGKILL:
                    return

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str],
    core: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[Started]:
    """`command`, pinned, its output in a file of `folder`; its whole group is gone afterwards."""
    log = folder / f"{name}.log"
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=folder,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    running = Started(name, process, log)
    try:
        yield running
    finally:
        running.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_answering(running: Started, port: int, request: bytes, within_s: float) -> None:
    """Until `request` has been answered with 200."""
    deadline_s = time.monotonic() + within_s
    answer = b""
    while time.monotonic() < deadline_s and running.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as call:
            call.sendall(request)
            answer = call.recv(4096)
            if answer.split(b"\r\n", 1)[0].split(b" ")[1:2] == [b"200"]:
                return
        time.sleep(0.1)
    raise SystemExit(
        f"peers: {running.name} gave no good answer within {within_s:.0f} s; it last said\n"
        f"{answer[:500].decode(errors='replace')}\n{running.last_words()}"
    )
