"""What every process of the gateway sets up before it serves."""

import ctypes
import gc
import logging
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def log_to_stderr(level: str) -> None:
    """One line an event, with a level that journald and people can filter by."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("httpx2", "httpcore2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def settle() -> None:
    """Set up memory for a process that has loaded its code and now only serves."""
    _collect_seldom()
    _keep_memory()


def _collect_seldom() -> None:
    """Keep the garbage collector from walking all that lives for ever, 700 objects at a time.

    Requests free what they made by counting references; cycles are for faults only.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _keep_memory() -> None:
    """Have glibc reuse the memory of one long prompt for the next one.

    It would give back and fetch anew whatever is over 128 KiB, and the page faults of that cost
    ten times what copying a prompt does (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's only
        mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
