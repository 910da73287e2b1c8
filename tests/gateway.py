"""A real gateway in a process of its own, for tests that talk to it as a user does."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import psutil

ADMIN_KEY = "test-admin-key"
STARTS_WITHIN_S = 60.0
WORKERS = int(os.environ.get("LAMPLIGHTER_TEST_WORKERS", "1"))  # of gateways that do not care
PATIENCE = 4  # machines are shared: what takes a second on an idle one may take four


class GatewayProcess:
    """`lamplighter serve` on a port of its own. `text` is YAML without `version` and `admin`."""

    def __init__(
        self,
        folder: Path,
        text: str,
        env: Mapping[str, str] | None = None,
        workers: int = WORKERS,
    ) -> None:
        self.file = folder / "gateway.yaml"
        self.log_file = folder / "gateway.log"
        self.write(text)
        self._log = self.log_file.open("wb")
        command = [sys.executable, "-m", "proxy.cli", "serve", str(self.file), "--port", "0"]
        command += ["--workers", str(workers)]
        self.process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder), **(env or {})},
            cwd=folder,
        )
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.url}/v1"
        self.http = httpx2.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def write(self, text: str) -> None:
        """Put a configuration in the gateway's file, in one step as an editor does."""
        temporary = self.file.with_suffix(".new")
        temporary.write_text(f"version: 1\nadmin: {{key: {ADMIN_KEY}}}\n{text}")
        temporary.replace(self.file)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def admin(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return self.http.request(method, f"/admin{path}", headers=headers, **more)

    def model(self, name: str) -> dict[str, Any]:
        """The state of one model as operators see it."""
        state: dict[str, Any] = self.admin("GET", f"/models/{name}").json()
        return state

    def children(self) -> list[psutil.Process]:
        """Every living process below the gateway, its workers apart."""
        return [p for p in self._living(recursive=True) if not _is_worker(p)]

    def workers(self) -> list[psutil.Process]:
        return [p for p in self._living(recursive=False) if _is_worker(p)]

    def _living(self, *, recursive: bool) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=recursive)
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def stop(self, signum: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(within_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        self.http.close()
        self.stop()
        self._log.close()

    def _wait_for_port(self) -> int:
        mark = "models at http://127.0.0.1:"
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            log = self.log
            if mark in log:
                return int(log.split(mark)[1].split("/")[0])
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"the gateway did not start:\n{self.log}")


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "proxy.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def run_gateway(
    folder: Path,
    text: str,
    env: Mapping[str, str] | None = None,
    workers: int = WORKERS,
) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(folder, text, env, workers)
    try:
        yield gateway
    finally:
        gateway.close()


def eventually(check: Callable[[], Any], within_s: float = 10.0, what: str = "") -> Any:
    """The first truthy answer of `check`, asked again and again until the time is over."""
    deadline_s = time.monotonic() + PATIENCE * within_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what or check}"
        time.sleep(0.02)
