"""The process between the gateway and one model server, so that no server outlives its gateway.

`python -I -S guard.py CONTROL STATUS ORDER` with three inherited file descriptors:

  ORDER    a file with the marshalled (command, environment, lease_s, grace_s); not in argv, which
           `ps` shows
  CONTROL  `T`: SIGTERM to the server's process group; `K`, or the end of the pipe because the
           gateway is gone: SIGKILL to every descendant; `R`, as any of them: the lease is renewed
  STATUS   `pid N` once the command runs or `error ERRNO` when it cannot; `lost` when the lease is
           lost: SIGTERM then, and SIGKILL to every descendant after the grace; at the end
           `exit CODE`, negative for a signal, when every descendant is gone

Runs alone, by path: it imports nothing of the project and little of the standard library, because
its start and its memory are paid once per model server. It stays single-threaded: the kernel sends
the parent-death signal when the *thread* that forked ends.
"""

import ctypes
import errno
import marshal
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# They are for the gateway to act upon, also when a terminal or systemd sends them to everybody.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
EXEC_FAILED = 127

RENEWALS = 4  # in the time of one lease
PARTS = 5
LONGEST_POLL_S = 3600.0  # poll(2) takes no more than 24 days

_prctl = ctypes.CDLL(None).prctl


def main(control: int, status: int, order: int) -> int:
    for fd in (control, status, order):
        os.set_inheritable(fd, False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    children_changed = _watch_signals()
    with os.fdopen(order, "rb") as file:
        command, env, lease_s, grace_s = marshal.load(file)
    try:
        pid = _start(command, env)
    except OSError as error:
        _tell(status, f"error {error.errno}")
        return EXEC_FAILED
    _tell(status, f"pid {pid}")
    # The lease runs from the renewal that is missing, not from the last one that came.
    ended = _guard(pid, control, children_changed, Lease(lease_s + lease_s / RENEWALS))
    if ended is None:
        _tell(status, "lost")
        _send(os.killpg, pid, signal.SIGTERM)
        ended = _guard(pid, control, children_changed, Grace(grace_s))
    code = os.waitstatus_to_exitcode(_end_all(pid) if ended is None else ended)
    _tell(status, f"exit {code}")
    return code if code >= 0 else 128 - code


class Lease:
    """For how long the gateway may be silent.

    Counted in parts, each of which begins when the one before was seen to be over. So a machine
    that stood still (swapping, a paused container or virtual machine) has lost one part and not
    all of it, and its gateway can renew. The clock stands still while the machine is suspended.
    """

    def __init__(self, length_s: float, clock: "Callable[[], float]" = time.monotonic) -> None:
        self._part_s = length_s / PARTS
        self._clock = clock
        self._begin(0)

    def _begin(self, silent_parts: int) -> None:
        self._silent_parts = silent_parts
        self._until_s = self._clock() + self._part_s

    def renew(self) -> None:
        self._begin(0)

    def left_ms(self) -> float:
        """Until it is to be looked at again."""
        return min(max(self._until_s - self._clock(), 0.0), LONGEST_POLL_S) * 1000

    def over(self) -> bool:
        if self._clock() >= self._until_s:
            self._begin(self._silent_parts + 1)
        return self._silent_parts >= PARTS


class Grace(Lease):
    """What follows a lost lease: nobody can renew it."""

    def renew(self) -> None:
        pass


def _watch_signals() -> int:
    """A descriptor that becomes readable when a child ended."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return readable


def _start(command: list[str], env: dict[str, str]) -> int:
    """Fork and exec; OSError when either fails. Returns after the exec."""
    failed, fails = os.pipe2(os.O_CLOEXEC)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(command, env, guard)
        except OSError as error:
            os.write(fails, str(error.errno).encode())
        except ValueError:  # a zero byte
            os.write(fails, str(errno.EINVAL).encode())
        finally:
            os._exit(EXEC_FAILED)
    os.close(fails)
    reason = os.read(failed, 16)
    os.close(failed)
    if reason:
        os.waitpid(pid, 0)
        raise OSError(int(reason), "")
    return pid


def _become(command: list[str], env: dict[str, str], guard: int) -> None:
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(EXEC_FAILED)  # it died before the line above took effect
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvpe(command[0], command, env)  # every descriptor but 0, 1, 2 is closed by it


def _guard(pid: int, control: int, children_changed: int, lease: Lease) -> "int | None":
    """Do what the gateway says until the server ends; then end the rest. The server's status.

    None, with the server running, once the lease is over.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(children_changed, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll(lease.left_ms())}
        if children_changed in ready:
            os.read(children_changed, 512)
            status = _reap(pid)
            if status is not None:
                _end_descendants()
                return status
        if control in ready:
            orders = os.read(control, 64)
            if not orders or b"K" in orders:
                return _end_all(pid)
            if b"T" in orders:
                _send(os.killpg, pid, signal.SIGTERM)
            lease.renew()
        elif lease.over():
            return None


def _reap(server: int) -> "int | None":
    """Collect orphans that ended; the server's status if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == server:
            return status
        if pid == 0:
            return None


def _end_all(server: int) -> int:
    _send(os.killpg, server, signal.SIGKILL)
    _, status = os.waitpid(server, 0)
    _end_descendants()
    return status


def _end_descendants() -> None:
    """Kill and reap children until none is left.

    The children of a killed child become ours, whatever session or group they went to. Only
    children are signalled: their ids cannot be used again before we reap them.
    """
    while True:
        for pid in _children():
            _send(os.kill, pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _send(kill: "Callable[[int, int], None]", pid: int, number: int) -> None:
    """Only to what is not reaped yet, so that the id is still its own."""
    try:  # noqa: SIM105 - contextlib would be the largest import
        kill(pid, number)
    except OSError:
        pass  # PermissionError from a set-user-id program: all that is left is to wait for it


def _children() -> "list[int]":
    own = str(os.getpid()).encode()
    children = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if len(fields) > 1 and fields[1] == own:
            children.append(int(name))
    return children


def _tell(status: int, line: str) -> None:
    try:  # noqa: SIM105 - as above
        os.write(status, f"{line}\n".encode())
    except BrokenPipeError:
        pass  # the gateway is gone; what is left to do is the same


if __name__ == "__main__":
    os._exit(main(*map(int, sys.argv[1:4])))
