"""The guard by itself: a process with a control and a status pipe."""

import errno
import json
import marshal
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.launchers import guard as guard_module

GUARD = str(guard_module.__file__)
WITHIN_S = 10.0

FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)

def note(name):
    with open(f"{sys.argv[1]}/.{name}", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{sys.argv[1]}/.{name}", f"{sys.argv[1]}/{name}")

if os.fork() == 0:
    note("child")
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    note("left_the_session")
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0:
            note("below_the_daemon")
            time.sleep(600)
        note("daemon")
        time.sleep(600)
    os._exit(0)
note("server")
if sys.argv[2:] == ["crash"]:
    while len(os.listdir(sys.argv[1])) < 5:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSEGV)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.01)


def family(folder: Path) -> dict[str, int]:
    """The processes of FAMILY by name, once all of them run."""
    until(lambda: len([f for f in folder.iterdir() if not f.name.startswith(".")]) == 5)
    return {file.name: int(file.read_text()) for file in folder.iterdir()}


class Guard:
    """A guard and our ends of its pipes."""

    def __init__(
        self, *command: str, env: dict[str, str] | None = None, lease_s: float = math.inf
    ) -> None:
        orders, self.control = os.pipe()
        status_fd, says = os.pipe()
        order = os.memfd_create("order")
        os.write(order, marshal.dumps((list(command), env or dict(os.environ), lease_s)))
        os.lseek(order, 0, os.SEEK_SET)
        fds = (orders, says, order)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, *map(str, fds)],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for fd in fds:
            os.close(fd)
        self.status = os.fdopen(status_fd)

    def tell(self, order: bytes) -> None:
        os.write(self.control, order)

    def hang_up(self) -> None:
        if self.control >= 0:
            os.close(self.control)
        self.control = -1

    def pid(self) -> int:
        word, number = self.status.readline().split()
        assert word == "pid"
        return int(number)

    def end(self) -> tuple[str, int, bytes]:
        """Its last words, its exit code, the command's output."""
        output, _ = self.process.communicate(timeout=WITHIN_S)
        return self.status.read().strip(), self.process.returncode, output

    def close(self) -> None:
        self.hang_up()
        self.process.wait(WITHIN_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.status.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Guard]]:
    guards = []

    def start(
        *command: str, env: dict[str, str] | None = None, lease_s: float = math.inf
    ) -> Guard:
        guards.append(Guard(*command, env=env, lease_s=lease_s))
        return guards[-1]

    yield start
    for guard in guards:
        guard.close()


Start = Callable[..., Guard]


@pytest.mark.parametrize(
    ("script", "said", "code"),
    [("exit 0", "exit 0", 0), ("exit 7", "exit 7", 7), ("kill -9 $$", "exit -9", 137)],
)
def test_the_end_of_the_command_is_reported(
    start: Start, script: str, said: str, code: int
) -> None:
    guard = start("sh", "-c", f"echo hello; {script}")
    guard.pid()
    assert guard.end() == (said, code, b"hello\n")


def test_a_command_that_is_not_there_is_an_errno(start: Start, tmp_path: Path) -> None:
    assert start("no-such-command").end()[0] == f"error {errno.ENOENT}"
    assert start(str(tmp_path)).end()[0] == f"error {errno.EACCES}"
    assert start("echo", "a\0b").end()[0] == f"error {errno.EINVAL}"


def test_the_command_gets_a_clean_process(start: Start) -> None:
    script = (
        "import json, os;"
        "fds = [f for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')];"
        "print(json.dumps([sorted(fds), os.readlink('/proc/self/fd/0'), os.getpid(),"
        " os.getsid(0), os.getpgid(0), dict(os.environ)]))"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        guard = start(sys.executable, "-I", "-S", "-c", script, env={"A": "b", "PATH": "/bin"})
        pid = guard.pid()
        fds, stdin, own, session, group, env = json.loads(guard.end()[2])
    assert fds == ["0", "1", "2"]
    assert stdin == "/dev/null"
    assert own == session == group == pid
    assert env.pop("LC_CTYPE", None) in (None, "C.UTF-8")  # Python sets it itself
    assert env == {"A": "b", "PATH": "/bin"}


def test_no_signal_is_blocked_or_ignored_whatever_the_gateway_does(start: Start) -> None:
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    try:
        guard = start("grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
        guard.pid()
        said = guard.end()[2]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR1, ignored)
    assert [int(line.split()[1], 16) for line in said.splitlines()] == [0, 0]


def test_term_reaches_the_whole_group(start: Start) -> None:
    guard = start("sh", "-c", "sleep 600 & echo ready; wait")
    guard.pid()
    assert guard.process.stdout is not None
    guard.process.stdout.readline()
    guard.tell(b"T")
    assert guard.end()[0] == "exit -15"


@pytest.mark.parametrize("how", ["hang up", "kill", "the server crashes"])
def test_whatever_happens_no_descendant_is_left(start: Start, tmp_path: Path, how: str) -> None:
    crash = ["crash"] if how == "the server crashes" else []
    guard = start(sys.executable, "-I", "-S", "-c", FAMILY, str(tmp_path), *crash)
    pid = guard.pid()
    members = family(tmp_path)
    assert members["server"] == pid
    if not crash:
        assert len({os.getsid(member) for member in members.values()}) == 3
    if how == "hang up":
        guard.hang_up()
    elif how == "kill":
        guard.tell(b"K")
    said, _, _ = guard.end()
    assert said == ("exit -11" if crash else "exit -9")
    assert [name for name, p in members.items() if alive(p)] == []


def test_processes_of_others_are_left_alone(start: Start, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        guard = start(sys.executable, "-I", "-S", "-c", FAMILY, str(tmp_path))
        guard.pid()
        family(tmp_path)
        guard.tell(b"K")
        guard.end()
        assert other.poll() is None
        other.kill()


def test_orphans_that_end_early_are_reaped(start: Start, tmp_path: Path) -> None:
    guard = start("sh", "-c", f"(sh -c 'echo $$ > {tmp_path}/pid; exit 3' &) ; exec sleep 600")
    guard.pid()
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    orphan = (tmp_path / "pid").read_text().strip()
    until(lambda: not Path(f"/proc/{orphan}").exists())
    assert guard.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_guard_outlives_signals_meant_for_the_gateway(start: Start, number: int) -> None:
    guard = start("sleep", "600")
    pid = guard.pid()
    guard.process.send_signal(number)
    guard.tell(b"T")
    assert guard.end()[0] == "exit -15"
    assert not alive(pid)


def test_the_server_dies_with_a_killed_guard(start: Start) -> None:
    guard = start("sleep", "600")
    pid = guard.pid()
    guard.process.kill()
    until(lambda: not alive(pid))


def test_nothing_starts_when_the_gateway_is_gone_already(start: Start) -> None:
    guard = start("sleep", "600")
    guard.hang_up()
    guard.process.wait(WITHIN_S)
    assert "exit -9" in guard.status.read()
