"""Connections are dealt evenly, none is lost, and nothing of them is kept."""

import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import model, yaml
from tests.relay.callers import Caller
from tests.workers.scenes import WORKERS, ask_on, get


@pytest.fixture(scope="module")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    text = yaml({"hot": model(fake_servers.urls[:1])})
    with run_gateway(tmp_path_factory.mktemp("dealing"), text, workers=WORKERS) as running:
        yield running


def held(gateway: GatewayProcess) -> dict[int, int]:
    """Connections of callers by worker."""
    return {
        worker.pid: sum(
            c.laddr.port == gateway.port and c.status == psutil.CONN_ESTABLISHED
            for c in worker.net_connections("tcp")
        )
        for worker in gateway.workers()
    }


def test_300_connections_are_dealt_evenly(gateway: GatewayProcess) -> None:
    eventually(lambda: not sum(held(gateway).values()), 10, "nobody is connected")
    callers = [Caller(gateway) for _ in range(300)]
    eventually(lambda: sum(held(gateway).values()) == 300, 10, "all are taken")
    assert Counter(held(gateway).values()) == {300 // WORKERS: WORKERS}
    for caller in callers:
        caller.socket.close()


def test_descriptors_do_not_leak_with_500_connections(gateway: GatewayProcess) -> None:
    processes = [psutil.Process(gateway.process.pid), *gateway.workers()]

    def connect() -> None:
        with Caller(gateway) as caller:
            assert ask_on(caller, "hot").status == 200
            assert get(caller, "/health").status == 200

    def descriptors() -> list[int]:
        return [process.num_fds() for process in processes]

    for _ in range(3 * WORKERS):
        connect()
    eventually(lambda: not sum(held(gateway).values()), 10, "nobody is connected")
    before = descriptors()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(connect) for _ in range(500)]:
            done.result()
    eventually(lambda: max(now - was for now, was in zip(descriptors(), before, strict=True)) <= 2)


def test_connections_that_are_reset_at_once_harm_nobody(gateway: GatewayProcess) -> None:
    for _ in range(100):
        with Caller(gateway) as caller:
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with Caller(gateway) as caller:
        assert ask_on(caller, "hot").status == 200
    assert "Traceback" not in gateway.log


def test_burst_that_fills_every_queue_is_served(fakes: FakeServers, tmp_path: Path) -> None:
    """Workers that do not take connections for a while: none is lost, none is closed."""
    text = yaml({"hot": model(fakes.urls[:1])})
    with run_gateway(tmp_path, text, workers=2) as gateway:
        workers = gateway.workers()
        for worker in workers:
            worker.suspend()
        callers = [Caller(gateway, 60) for _ in range(1000)]
        for caller in callers:
            caller.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        for worker in workers:
            worker.resume()
        for caller in callers:
            with caller:
                assert caller.answer("GET").status == 200


def test_current_folder_of_the_gateway_is_not_where_workers_find_code(
    fakes: FakeServers, tmp_path: Path
) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("raise SystemExit('not this one')")
    file = tmp_path / "c.yaml"
    file.write_text("version: 1\n" + yaml({"hot": model(fakes.urls[:1])}))
    command = [sys.executable, "-P", "-m", "proxy.cli", "serve", str(file), "--port", "0"]
    with subprocess.Popen(
        [*command, "--workers", "2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "models at" in line or "Err" in line)
        finally:
            process.terminate()
        log = line + process.stderr.read()
    assert re.search(r"models at http://127\.0\.0\.1:[1-9]\d+/v1", log)
    assert "not this one" not in log


def test_mistake_in_the_file_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("version: 1\nmodels: {hot: {hot: {urls: [http://127.0.0.1:9/v1]}, hat: 1}}\n")
    command = [sys.executable, "-m", "proxy.cli", "serve", str(file), "--workers", "3"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert told.stderr.count("hat") == told.stderr.count("\n") == 1
