"""Find and kill what a model server left behind when its guard was killed and could not.

The server itself then dies by the kernel's parent-death signal, its descendants do not. They are
known by the session that the guard made for the server, or by the marker in their environment.
"""

import os
import signal

MARKER = "LAMPLIGHTER_INSTANCE"


def kill_leftovers(session: int, marker: str) -> int:
    """SIGKILL each living process of that session or with that marker; how many there were."""
    mark = f"{MARKER}={marker}".encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return sum(_kill_if_ours(pid, session, mark) for pid in pids)


def _kill_if_ours(pid: int, session: int, mark: bytes) -> bool:
    # The descriptor is opened first: what is read afterwards is of the process that it names, or
    # the process is gone and the signal goes nowhere.
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not (_living_session(pid) == session or mark in _read(pid, "environ").split(b"\0")):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(process)


def _living_session(pid: int) -> int | None:
    state, _parent, _group, session = _read(pid, "stat").rpartition(b")")[2].split()[:4]
    return None if state in (b"Z", b"X") else int(session)


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
