"""The whole harness once, on our own gateway alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.engines.require import need

ROOT = Path(__file__).resolve().parents[2]
HARNESS = [sys.executable, "-m", "load_tests.peers", "--peers", "lamplighter"]

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.mark.slow
@two_cores
def test_quick_run_prints_the_table_and_keeps_the_numbers(tmp_path: Path) -> None:
    need("wrk")
    numbers = tmp_path / "numbers.json"
    command = [*HARNESS, "--quick", "--json", str(numbers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "plain request, 16 connections" in done.stdout
    found = json.loads(numbers.read_text())
    assert {line["row"] for line in found} == {"plain-16", "stream"}
    assert all(line["value"] > 0 for line in found)
    assert not any("errors" in line["refused"] for line in found)


@two_cores
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process(signum: signal.Signals) -> None:
    command = [*HARNESS, "--only", "stream", "--seconds", "60"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as harness:
        started = _children(harness.pid, at_least=3)
        harness.send_signal(signum)
        assert harness.wait(30) != 0
    gone, alive = psutil.wait_procs(started, timeout=5)
    assert not alive
    assert len(gone) >= 3


def _children(pid: int, at_least: int) -> list[psutil.Process]:
    """Upstream, gateway and driver, once they are there."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        children = psutil.Process(pid).children(recursive=True)
        if len(children) >= at_least:
            return children
        time.sleep(0.05)
    raise AssertionError(f"fewer than {at_least} processes were started")


def test_unknown_name_is_refused_with_those_that_there_are() -> None:
    command = [sys.executable, "-m", "load_tests.peers", "--only", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "nonsense is not among plain, plain64" in done.stderr
