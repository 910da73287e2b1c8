"""Lamplighter beside its peers, one core each: `python -m load_tests.peers [--quick]`."""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from load_tests.rig.calls import small_body
from load_tests.rig.environment import prepared
from load_tests.rig.gateways import ROOT, gateway
from load_tests.rig.machine import described, pinned, raise_open_files, two_cores
from load_tests.rig.plain import run_wrk
from load_tests.rig.processes import Started, free_port, started, wait_until_answering


def stream_run(
    target: Started, upstream: Started, port: int, core: int, seconds: float
) -> tuple[float, float, float]:
    """CPU us a chunk; the share of its core that the gateway and the rig used."""
    command = [sys.executable, "-m", "load_tests.rig.streams", str(port), "200", "20", "100000"]
    with pinned(core):
        driver = subprocess.Popen([*command, str(seconds)], stdout=subprocess.PIPE, cwd=ROOT)
    with driver:
        try:
            assert driver.stdout is not None
            first = json.loads(driver.stdout.readline())
            before, rig = target.cpu_s(), upstream.cpu_s()
            last = json.loads(driver.stdout.readline())
            used, rig = target.cpu_s() - before, upstream.cpu_s() - rig
        finally:
            driver.kill()
    if last["refused"] or last["ended"]:
        raise SystemExit(f"peers: {target.name}: {last}")
    rig += last["cpu_s"] - first["cpu_s"]
    wall = last["at_s"] - first["at_s"]
    chunks = last["chunks"] - first["chunks"]
    print(f"{target.name} {chunks / wall:.0f} chunks/s of 10000", flush=True)
    return used / chunks * 1e6, used / wall, rig / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="plain,stream")
    parser.add_argument("--peers", default="vllm-router,lamplighter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    given = parser.parse_args()
    raise_open_files()
    gateway_core, rig_core = two_cores()
    environment = prepared()
    print(described())
    names = given.peers.split(",")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        command = [sys.executable, "-m", "load_tests.rig.upstream", str(port)]
        upstream = stack.enter_context(
            started("upstream", command, rig_core, folder, {"PYTHONPATH": str(ROOT)})
        )
        wait_until_answering(upstream, port, b"GET /health HTTP/1.1\r\n\r\n", 10.0)
        targets = {
            name: stack.enter_context(gateway(name, environment, gateway_core, folder, port))
            for name in names
        }
        found: dict[str, list[float]] = {}
        for what in given.only.split(","):
            for _ in range(given.rounds):
                for name, (target, target_port) in targets.items():
                    if what == "plain":
                        body = small_body()
                        run_wrk(target, upstream, target_port, body, 16, 1, rig_core, folder)
                        p = run_wrk(
                            target, upstream, target_port, body, 16, given.seconds, rig_core, folder
                        )
                        assert p.errors == 0, p
                        us = p.gateway_cpu_s / p.requests * 1e6
                        busy, rig = p.gateway_cpu_s / p.duration_s, p.rig_cpu_s / p.duration_s
                    else:
                        us, busy, rig = stream_run(
                            target, upstream, target_port, rig_core, given.seconds
                        )
                    found.setdefault(f"{what} {name}", []).append(us)
                    print(f"{what} {name} {us:.1f} us, core {busy:.0%}, rig {rig:.0%}", flush=True)
        for row, values in found.items():
            print(f"{row:32} {statistics.median(values):.1f} us  {[round(v, 1) for v in values]}")


if __name__ == "__main__":
    main()
