"""Plain load, by wrk: a fixed number of connections, each with one request at a time."""

import json
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

from load_tests.rig.calls import lua
from load_tests.rig.machine import pinned
from load_tests.rig.processes import Started


@dataclass(frozen=True)
class Plain:
    """What one run of wrk came to."""

    requests: int
    errors: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_s: float
    rig_cpu_s: float


def run_wrk(
    gateway: Started | None,
    upstream: Started,
    port: int,
    body: str,
    connections: int,
    seconds: int,
    core: int,
    folder: Path,
) -> Plain:
    script = folder / "call.lua"
    script.write_text(lua(body))
    target = f"http://127.0.0.1:{port}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    gateway_before = gateway.cpu_s() if gateway else 0.0
    rig_before = upstream.cpu_s() + _children_s()
    with pinned(core):
        done = subprocess.run(
            [*command, "-s", str(script), target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    gateway_cpu_s = (gateway.cpu_s() if gateway else 0.0) - gateway_before
    rig_cpu_s = upstream.cpu_s() + _children_s() - rig_before
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
        gateway_cpu_s=gateway_cpu_s,
        rig_cpu_s=rig_cpu_s,
    )


def _children_s() -> float:
    """CPU of children that have ended: of wrk, since nothing else ends during a run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
