"""The machine: which core the thing under test gets, which the rig, and what it is called."""

import contextlib
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

OPEN_FILES = 65_536


def two_cores() -> tuple[int, int]:
    """The core of the thing under test, and that of upstream and load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("peers: needs two cores, one for the gateway and one for the load")
    return allowed[0], allowed[1]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside inherits the core, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files() -> int:
    """The limit on open files, for us and for all that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def described() -> str:
    """The machine in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, {platform.machine()}"
    )


def core_time_s(core: int) -> float:
    """Seconds in which the core worked for anybody, or the host gave it to other machines."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks = user + nice + system + irq + softirq + steal
            return ticks / os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"/proc/stat has no cpu{core}")
