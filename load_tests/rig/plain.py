"""Plain load, by wrk: a fixed number of connections, each with one request at a time."""

import json
import resource
import subprocess
from dataclasses import dataclass

from load_tests.rig.bench import Bench
from load_tests.rig.calls import lua
from load_tests.rig.gateways import Target
from load_tests.rig.judge import Shares
from load_tests.rig.machine import pinned


@dataclass(frozen=True)
class Plain:
    """What one run of wrk came to."""

    requests: int
    errors: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_s: float
    shares: Shares

    @property
    def cpu_us(self) -> float:
        return self.gateway_cpu_s / max(self.requests, 1) * 1e6


def run_wrk(bench: Bench, target: Target, body: str, connections: int, seconds: int) -> Plain:
    script = bench.folder / "call.lua"
    script.write_text(lua(body))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    meter = bench.meter(target)
    wrk_before_s = _children_s()
    with pinned(bench.rig_core):
        done = subprocess.run(
            [*command, "-s", str(script), f"http://127.0.0.1:{target.port}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    used = meter.read(driver_cpu_s=_children_s() - wrk_before_s)
    _, mark, summary = done.stdout.partition("\nRIG ")
    if not mark:
        raise SystemExit(f"peers: wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    found = json.loads(summary)
    return Plain(
        requests=found["requests"],
        errors=found["errors"],
        duration_s=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        gateway_cpu_s=used.gateway_cpu_s,
        shares=used.shares,
    )


def _children_s() -> float:
    """CPU of children that have ended: of wrk, since nothing else ends during a run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
