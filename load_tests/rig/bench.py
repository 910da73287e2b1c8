"""The upstream, the folder and the cores of one run, and the meter that reads CPU time."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from load_tests.rig.gateways import ROOT, Target
from load_tests.rig.judge import Shares
from load_tests.rig.machine import core_time_s, two_cores
from load_tests.rig.processes import Started, free_port, started, wait_until_answering


@dataclass(frozen=True)
class Used:
    gateway_cpu_s: float
    wall_s: float
    shares: Shares


class Meter:
    """CPU time from its creation to `read`."""

    def __init__(self, bench: "Bench", target: Target) -> None:
        self._bench = bench
        self._target = target
        self._before = self._now()

    def _now(self) -> tuple[float, ...]:
        return (
            time.monotonic(),
            self._target.cpu_s(),
            self._bench.upstream.cpu_s(),
            core_time_s(self._bench.gateway_core),
            core_time_s(self._bench.rig_core),
            time.process_time(),
        )

    def read(self, driver_cpu_s: float) -> Used:
        differences = zip(self._now(), self._before, strict=True)
        wall_s, gateway_s, upstream_s, core_s, rig_core_s, own_s = (a - b for a, b in differences)
        rig_s = upstream_s + driver_cpu_s
        shares = Shares(
            gateway=gateway_s / wall_s,
            rig=rig_s / wall_s,
            others=max(0.0, core_s - gateway_s) / wall_s if self._target.running else 0.0,
            rig_others=max(0.0, rig_core_s - rig_s - own_s) / wall_s,
        )
        return Used(gateway_s, wall_s, shares)


@dataclass(frozen=True)
class Bench:
    folder: Path
    gateway_core: int
    rig_core: int
    upstream: Started
    upstream_port: int
    seconds: int

    def meter(self, target: Target) -> Meter:
        return Meter(self, target)

    def direct(self) -> Target:
        """The upstream itself, without anything before it."""
        return Target("direct", self.upstream_port, None)


@contextlib.contextmanager
def bench(seconds: int) -> Iterator[Bench]:
    """A running upstream; this process moves to the rig's core."""
    gateway_core, rig_core = two_cores()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {rig_core})
    port = free_port()
    command = [sys.executable, "-m", "load_tests.rig.upstream", str(port)]
    env = {"PYTHONPATH": str(ROOT)}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="lamplighter-rig-") as folder,
            started("upstream", command, rig_core, Path(folder), env) as upstream,
        ):
            wait_until_answering(upstream, port, b"GET /health HTTP/1.1\r\n\r\n", 10.0)
            yield Bench(Path(folder), gateway_core, rig_core, upstream, port, seconds)
    finally:
        os.sched_setaffinity(0, allowed)
