"""A command behind its guard: started, watched, stopped, and nothing of it left at the end.

Knows processes and descriptors; knows nothing of ports, URLs or models.
"""

import asyncio
import errno
import fcntl
import marshal
import math
import os
import secrets
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from backends.launchers import LaunchFailed
from backends.launchers.leftovers import MARKER, kill_leftovers
from backends.launchers.pipes import PipeReader
from backends.tasks import TaskSet

GUARD = Path(__file__).with_name("guard.py")
KILLED = -9
LOG_ENDS_WITHIN_S = 1.0  # after the last process that we know of
LEFTOVERS_POLL_S = 0.02
GRACE_S = 10.0  # between SIGTERM and SIGKILL once a lease is lost; nobody is there to ask for more

# The machine is short of something now; every other reason is in the command.
_TRANSIENT = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY, errno.EINTR}
)


@dataclass(frozen=True)
class _Pipes:
    """Our ends of the guard's pipes."""

    guard: subprocess.Popen[bytes]
    control: int
    status: int
    log: int


class Guarded:
    """One command, its guard and its pipes. Made by `start`."""

    def __init__(
        self, pipes: _Pipes, marker: str, log: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self.pid = 0
        self._guard = pipes.guard
        self._control = pipes.control
        self._marker = marker
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._said = b""
        self._started: asyncio.Future[int] = self._loop.create_future()  # 0, or an errno
        self._code: int | None = None
        self.lost_lease = False  # its guard heard nothing from us for too long, and ends it
        self._stopping = False
        self._kill_timer: asyncio.TimerHandle | None = None
        self._kill_at = math.inf
        self._status = PipeReader(pipes.status, self._heard)
        self._log = PipeReader(pipes.log, log)
        self._tasks = TaskSet()
        self._life = self._tasks.task(self._live(), f"process of {marker}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Callable[[bytes], None],
        on_end: Callable[[], None],
        lease_s: float = math.inf,
    ) -> "Guarded":
        """Return when the command runs. Raises LaunchFailed.

        `on_end` is called once, however it ends, when nothing is left of it. Without a `renew`
        for `lease_s`, and up to a quarter more, its guard ends it.
        """
        marker = secrets.token_hex(8)
        try:
            pipes = _start_guard(list(command), {**env, MARKER: marker}, lease_s)
        except OSError as error:
            on_end()
            raise LaunchFailed(f"its guard could not be started: {error.strerror}") from error
        process = cls(pipes, marker, log, on_end)
        try:
            reason = await process._started
        except BaseException:
            await process.kill()
            raise
        if reason:
            await process.wait()
            raise _why(command[0], env, reason)
        return process

    async def wait(self) -> int:
        """The exit code, negative for a signal, once nothing is left. Many may await it."""
        return await asyncio.shield(self._life)

    async def stop(self, within_s: float) -> None:
        """SIGTERM to the group, SIGKILL to all after `within_s`; the earliest deadline counts.

        The timer, not the caller, sends the second signal: a caller who leaves changes nothing.
        """
        if not self._life.done():
            if not self._stopping:  # to some servers a second SIGTERM means: without draining
                self._stopping = True
                self._ask(b"T")
            self._kill_within(within_s)
        await self.wait()

    @property
    def ended(self) -> bool:
        return self._life.done()

    def renew(self) -> None:
        """Renew the lease; never blocks.

        Only if the guard read the last one: those of weeks in which it was stopped would fill the
        pipe, and no order would reach it any more.
        """
        if self._control >= 0 and not _unread(self._control):
            self._ask(b"R")

    async def kill(self) -> None:
        self._ask(b"K")
        await self.wait()

    def _kill_within(self, within_s: float) -> None:
        if not math.isfinite(within_s):
            return
        kill_at = self._loop.time() + within_s
        if self._kill_timer is not None:
            if self._kill_at <= kill_at:  # uvloop's timer of 0 s does not know its own time
                return
            self._kill_timer.cancel()
        self._kill_at = kill_at
        self._kill_timer = self._loop.call_at(kill_at, self._ask, b"K")

    def _ask(self, order: bytes) -> None:
        if self._control >= 0:
            with suppress(BrokenPipeError, BlockingIOError):  # it is gone; or was told often enough
                os.write(self._control, order)

    def _heard(self, chunk: bytes) -> None:
        *lines, self._said = (self._said + chunk).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"lost":
                self.lost_lease = True
                continue
            if word == b"exit":
                self._code = int(number)
                continue
            if word == b"pid":
                self.pid = int(number)
            self._answer(int(number) if word == b"error" else 0)

    def _answer(self, reason: int) -> None:
        if not self._started.done():
            self._started.set_result(reason)

    async def _live(self) -> int:
        """From the start of the guard to the end of everything."""
        try:
            await self._status.ended.wait()
            self._answer(errno.ECHILD)
            await self._reap_guard()
            if self._code is None and self.pid:
                await self._kill_leftovers()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOG_ENDS_WITHIN_S):
                    await self._log.ended.wait()
        finally:
            self._close()
        return KILLED if self._code is None else self._code

    async def _reap_guard(self) -> None:
        """It closes its descriptors a moment before it can be reaped."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self._guard.pid)
            ended = asyncio.Event()
            self._loop.add_reader(handle, ended.set)
            try:
                await ended.wait()
            finally:
                self._loop.remove_reader(handle)
                os.close(handle)
        self._guard.poll()

    async def _kill_leftovers(self) -> None:
        """The guard was killed, so the server dies with it; see to its descendants."""
        while True:
            if not await asyncio.to_thread(kill_leftovers, self.pid, self._marker):
                return
            await asyncio.sleep(LEFTOVERS_POLL_S)

    def _close(self) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        os.close(self._control)  # a guard that still lives kills everything now
        self._control = -1
        self._status.close()
        self._log.close()
        self._on_end()


def _start_guard(command: list[str], env: dict[str, str], lease_s: float) -> _Pipes:
    with ExitStack() as theirs, ExitStack() as ours:

        def pipe(our_end: int) -> tuple[int, int]:
            ends = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, ends[our_end])
            theirs.callback(os.close, ends[1 - our_end])
            return ends

        orders_out, orders_in = pipe(1)
        status_out, status_in = pipe(0)
        log_out, log_in = pipe(0)
        launch = os.memfd_create("launch")
        theirs.callback(os.close, launch)
        _write_all(launch, marshal.dumps((command, env, lease_s, GRACE_S)))
        os.set_blocking(orders_in, False)
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *map(str, (orders_out, status_in, launch))],
            stdin=subprocess.DEVNULL,
            stdout=log_in,
            stderr=log_in,
            pass_fds=(orders_out, status_in, launch),
            start_new_session=True,  # a terminal's Ctrl-C is the gateway's to handle
        )
        ours.pop_all()
        return _Pipes(guard, orders_in, status_out, log_out)


def _unread(pipe: int) -> int:
    """The bytes in a pipe, as seen from either end."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _write_all(fd: int, content: bytes) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)


def _why(program: str, env: Mapping[str, str], reason: int) -> LaunchFailed:
    """What the person who wrote the command has to know."""
    found = shutil.which(program, path=env.get("PATH"))
    if reason == errno.ECHILD:
        message = "its guard ended before it could run the command"
    elif reason == errno.ENOENT and found is None:
        message = f"no such command: {program}"
    elif reason == errno.ENOENT:
        message = f"{program} cannot run: the interpreter that its first line names is not there"
    elif reason == errno.EACCES:
        message = f"{program} cannot run: permission denied; is it an executable file?"
    elif reason == errno.ENOEXEC:
        message = f"{program} cannot run: neither a program for this machine nor begins with #!"
    else:
        message = f"{program} cannot run: {os.strerror(reason)}"
    return LaunchFailed(message, permanent=reason not in _TRANSIENT | {errno.ECHILD})
