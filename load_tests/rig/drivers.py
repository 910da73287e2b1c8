"""Our own load processes, run on the rig's core and read line by line."""

import contextlib
import json
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from load_tests.rig.bench import Bench
from load_tests.rig.gateways import ROOT, Target
from load_tests.rig.judge import Shares
from load_tests.rig.machine import pinned

OPENS_WITHIN_S = 80.0
LOOKS_EVERY_S = 0.25


@dataclass(frozen=True)
class Streamed:
    """What happened from the moment when all streams ran to the end."""

    running: int
    ended: int
    ended_early: int  # before all ran
    whole: int
    chunks: int  # since then
    all_chunks: int
    widest_gap_s: float
    wall_s: float
    gateway_cpu_s: float
    most_rss_bytes: int
    shares: Shares

    @property
    def cpu_us(self) -> float:
        return self.gateway_cpu_s / max(self.chunks, 1) * 1e6


@contextlib.contextmanager
def _driver(bench: Bench, module: str, *arguments: object) -> Iterator[IO[bytes]]:
    command = [sys.executable, "-m", f"load_tests.rig.{module}", *map(str, arguments)]
    with pinned(bench.rig_core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT
        )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout
        finally:
            process.kill()


def _line(output: IO[bytes], within_s: float, meanwhile: Callable[[], None]) -> dict[str, float]:
    """The next line; `meanwhile` is called a few times a second until it is there."""
    deadline_s = time.monotonic() + within_s
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while time.monotonic() < deadline_s:
            if selector.select(LOOKS_EVERY_S):
                found: dict[str, float] = json.loads(output.readline() or b"{}")
                if not found:
                    break
                return found
            meanwhile()
    raise SystemExit("peers: a load process said nothing; see what it printed above")


def run_streams(
    bench: Bench,
    target: Target,
    streams: int,
    pace_ms: int,
    chunks: int,
    seconds: float,
    with_opening: bool = False,
) -> Streamed:
    """CPU and chunks count once all streams run, or with their opening too."""
    most_rss = 0

    def look() -> None:
        nonlocal most_rss
        most_rss = max(most_rss, target.rss_bytes())

    with _driver(bench, "streams", target.port, streams, pace_ms, chunks, seconds) as output:
        meter = bench.meter(target)
        first = _line(output, OPENS_WITHIN_S, lambda: None)
        early = int(first["ended"])
        if with_opening:
            first = dict.fromkeys(first, 0.0) | {"at_s": first["at_s"]}
        else:
            meter = bench.meter(target)
        look()
        last = _line(output, seconds + OPENS_WITHIN_S, look)
        used = meter.read(last["cpu_s"] - first["cpu_s"])
    return Streamed(
        running=int(last["running"]),
        ended=int(last["ended"]),
        ended_early=early,
        whole=int(last["whole"]),
        chunks=int(last["chunks"] - first["chunks"]),
        all_chunks=int(last["chunks"]),
        widest_gap_s=last["widest_gap_s"],
        wall_s=last["at_s"] - first["at_s"],
        gateway_cpu_s=used.gateway_cpu_s,
        most_rss_bytes=most_rss,
        shares=used.shares,
    )


@dataclass(frozen=True)
class Steady:
    due: int
    answered: int
    errors: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    shares: Shares


def run_steady(bench: Bench, target: Target, rate: int, seconds: float) -> Steady:
    with _driver(bench, "steady", target.port, rate, seconds) as output:
        meter = bench.meter(target)
        line = _line(output, seconds + OPENS_WITHIN_S, lambda: None)
        used = meter.read(line["cpu_s"])
    return Steady(
        due=int(line["due"]),
        answered=int(line["answered"]),
        errors=int(line["errors"]),
        p50_ms=line["p50_ms"],
        p99_ms=line["p99_ms"],
        late_p99_ms=line["late_p99_ms"],
        shares=used.shares,
    )
