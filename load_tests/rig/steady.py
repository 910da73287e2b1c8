"""Requests at a constant rate: `python -m load_tests.rig.steady PORT RATE SECONDS`.

Open loop: request k is due at k/RATE whatever became of the others, and its latency counts from
that moment, so a gateway that stalls pays for all who had to wait. Prints one line of JSON.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import re
import struct
import time
from collections import deque
from typing import cast

import uvloop

from load_tests.rig.calls import post, small_body
from load_tests.rig.judge import percentile

CONNECTIONS = 256
WARM_UP_S = 1.0
ENDS_WITHIN_S = 3.0  # how long the last answers may take
BEGINS_IN_S = 0.05
CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_TIMER_ABSTIME = 1, 0o4000, 1
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def ticking(begin_s: float, every_s: float) -> int:
    """A descriptor that becomes readable at `begin_s` and then every `every_s`.

    The loop's own timers count in milliseconds. Ticks come just after a request is due.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
    begin = (int(begin_s), int(begin_s % 1 * 1e9))
    times = struct.pack("4q", 0, int(every_s * 1e9), *begin)
    if timer < 0 or libc.timerfd_settime(timer, TFD_TIMER_ABSTIME, times, None):
        raise OSError(ctypes.get_errno(), "no timer")
    return timer


class Caller(asyncio.Protocol):
    """A connection with at most one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._seen = b""
        self.due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen = self._seen + data if self._seen else data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end:
            return
        length = LENGTH.search(head)
        if len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
            return
        good = self._seen.startswith(b"HTTP/1.1 200")
        self._seen = b""
        self._load.answered(self, good)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.errors += not self._load.over


class Load:
    def __init__(self, rate: float, seconds: float) -> None:
        self.request = post(small_body())
        self.rate = rate
        self.total = int(rate * (WARM_UP_S + seconds))
        self.first_counted = int(rate * WARM_UP_S)
        self.sent = 0  # or waiting for a connection
        self.errors = 0
        self.over = False
        self.latencies_s: list[float] = []
        self.lateness_s: list[float] = []
        self.free: list[Caller] = []
        self.waiting: deque[float] = deque()
        self.begun_s = 0.0
        self.counted_from_s = 0.0

    def tick(self, timer: int) -> None:
        os.read(timer, 8)
        now_s = time.monotonic()
        due = min(self.total, int((now_s - self.begun_s) * self.rate) + 1)
        for number in range(self.sent, due):
            due_s = self.begun_s + number / self.rate
            if number >= self.first_counted:
                self.lateness_s.append(now_s - due_s)
            if self.free:
                self._send(self.free.pop(), due_s)
            else:
                self.waiting.append(due_s)
        self.sent = max(due, self.sent)

    def _send(self, caller: Caller, due_s: float) -> None:
        caller.due_s = due_s
        caller.transport.write(self.request)

    def answered(self, caller: Caller, good: bool) -> None:
        if not good:
            self.errors += 1
        elif caller.due_s >= self.counted_from_s:
            self.latencies_s.append(time.monotonic() - caller.due_s)
        if self.waiting:
            self._send(caller, self.waiting.popleft())
        else:
            self.free.append(caller)


def go_first() -> None:
    """Be on time: the upstream shares our core and would keep it for most of a millisecond."""
    with contextlib.suppress(PermissionError):  # then lateness is seen and judged
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


async def drive(port: int, load: Load) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        _, caller = await loop.create_connection(lambda: Caller(load), "127.0.0.1", port)
        load.free.append(caller)
    load.begun_s = time.monotonic() + BEGINS_IN_S
    load.counted_from_s = load.begun_s + (load.first_counted - 0.5) / load.rate
    timer = ticking(load.begun_s, 1 / load.rate)
    loop.add_reader(timer, load.tick, timer)
    await asyncio.sleep(BEGINS_IN_S + load.total / load.rate)
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    counted = load.total - load.first_counted
    while len(load.latencies_s) < counted and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    loop.remove_reader(timer)
    load.over = True
    line = {
        "due": counted,
        "answered": len(load.latencies_s),
        "errors": load.errors,
        "p50_ms": percentile(load.latencies_s, 0.5) * 1e3,
        "p99_ms": percentile(load.latencies_s, 0.99) * 1e3,
        "late_p99_ms": percentile(load.lateness_s, 0.99) * 1e3,
        "cpu_s": time.process_time(),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    go_first()
    uvloop.run(drive(given.port, Load(given.rate, given.seconds)))


if __name__ == "__main__":
    main()
