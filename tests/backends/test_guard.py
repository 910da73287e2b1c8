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
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.launchers import guard as guard_module
from backends.launchers.guard import PARTS, RENEWALS, Grace, Lease

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
        self,
        *command: str,
        env: dict[str, str] | None = None,
        lease_s: float = math.inf,
        grace_s: float = 0.0,
    ) -> None:
        orders, self.control = os.pipe()
        status_fd, says = os.pipe()
        order = os.memfd_create("order")
        what = (list(command), env or dict(os.environ), lease_s, grace_s)
        os.write(order, marshal.dumps(what))
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

    def start(*command: str, **more: Any) -> Guard:
        guards.append(Guard(*command, **more))
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


STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"no\\n"))
while True:
    time.sleep(600)
"""
LONG_S = 600.0


def test_a_lease_that_nobody_renews_is_lost_and_the_server_asked_to_end(start: Start) -> None:
    guard = start("sleep", "600", lease_s=0.1, grace_s=LONG_S)
    pid = guard.pid()
    assert guard.end()[0] == "lost\nexit -15"
    assert not alive(pid)


def test_every_order_renews_the_lease(start: Start) -> None:
    guard = start("sleep", "600", lease_s=2.0)
    guard.pid()
    for _ in range(40):  # 4 s
        guard.tell(b"R")
        time.sleep(0.1)
    guard.tell(b"T")
    assert guard.end()[0] == "exit -15"


def test_whoever_is_deaf_or_far_is_killed_after_the_grace(start: Start, tmp_path: Path) -> None:
    guard = start(sys.executable, "-I", "-S", "-c", FAMILY, str(tmp_path), lease_s=4.0, grace_s=0.2)
    guard.pid()
    members = family(tmp_path)
    assert guard.end()[0] == "lost\nexit -9"
    assert [name for name, pid in members.items() if alive(pid)] == []


@pytest.mark.parametrize("how", ["kill", "hang up"])
def test_the_gateway_can_cut_the_grace_short(start: Start, how: str) -> None:
    guard = start(sys.executable, "-I", "-S", "-c", STUBBORN, lease_s=2.0, grace_s=LONG_S)
    guard.pid()
    assert guard.status.readline() == "lost\n"
    guard.tell(b"R")  # too late
    if how == "kill":
        guard.tell(b"K")
    else:
        guard.hang_up()
    assert guard.end()[0] == "exit -9"


def test_a_lost_lease_cannot_be_renewed(start: Start) -> None:
    guard = start(sys.executable, "-I", "-S", "-c", STUBBORN, lease_s=2.0, grace_s=1.0)
    guard.pid()
    assert guard.status.readline() == "lost\n"
    while guard.process.poll() is None:
        guard.tell(b"R")
        time.sleep(0.02)
    assert guard.end()[0] == "exit -9"


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_is_over_after_its_parts() -> None:
    clock = Time()
    lease = Lease(10.0, clock)
    polls = []
    while not lease.over():
        polls.append(lease.left_ms())
        clock.now_s += lease.left_ms() / 1000
    assert polls == [2000.0] * PARTS
    assert PARTS == RENEWALS + 1


@given(st.lists(st.floats(0, 1e6), max_size=PARTS - 1))
def test_standing_still_costs_one_part_however_long(stood_still_s: list[float]) -> None:
    clock = Time()
    lease = Lease(10.0, clock)
    for jump_s in stood_still_s:
        clock.now_s += jump_s
        assert not lease.over()


@given(st.lists(st.floats(0, 9.9), max_size=50))
def test_a_lease_that_is_renewed_is_never_over(silences_s: list[float]) -> None:
    clock = Time()
    lease = Lease(10.0, clock)
    for silence_s in silences_s:
        for _ in range(PARTS):
            clock.now_s += silence_s / PARTS
            assert not lease.over()
        lease.renew()


def test_a_grace_is_not_renewed() -> None:
    clock = Time()
    grace = Grace(10.0, clock)
    for _ in range(PARTS):
        grace.renew()
        clock.now_s += 2.0
        over = grace.over()
    assert over


def test_a_server_without_a_lease_is_looked_at_now_and_then() -> None:
    lease = Lease(math.inf, Time())
    assert lease.left_ms() == 3_600_000
    assert not lease.over()
