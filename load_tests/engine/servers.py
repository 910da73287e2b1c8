"""What is measured: real engines, each on a core of its own, and the gateway before them."""

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.rig.gateways import ROOT
from load_tests.rig.processes import Started, free_port, started

MODEL = "smollm2"
VLLM_VENV = "LAMPLIGHTER_TEST_VLLM"
VLLM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it has one core, and this process pins it there
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
VLLM_FLAGS = ("--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16")


@dataclass(frozen=True)
class Engine:
    """How to start one. Answers are never taken from a prompt cache, so that turns are equal."""

    name: str
    command: list[str]  # with {port}
    env: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    starts_within_s: float = 60.0


@dataclass(frozen=True)
class Server:
    """One that runs."""

    url: str
    running: Started


def engines(gguf: Path) -> list[Engine]:
    """llama.cpp, and vLLM where an environment with it is named."""
    server = [sys.executable, "-m", "backends.llama_server", "--model", str(gguf)]
    flags = ["--template", "chatml", "--alias", MODEL, "--threads", "1", "--port", "{port}"]
    env = {"PYTHONPATH": str(ROOT)}
    found = [Engine("llama.cpp", [*server, *flags], env, ("cache_prompt:false",))]
    venv = os.environ.get(VLLM_VENV)
    if venv:
        found.append(_vllm(Path(venv).absolute(), gguf))
    return found


def _vllm(venv: Path, gguf: Path) -> Engine:
    python, model = str(venv / "bin" / "python"), str(venv / "lamplighter-model")
    if not Path(python).is_file():
        raise SystemExit(f"engine: {VLLM_VENV}={venv} is not a virtual environment")
    maker = ROOT / "tests" / "engines" / "make_vllm_model.py"
    made = subprocess.run(
        [python, str(maker), model, str(gguf)],
        env={**os.environ, **VLLM_ENV},
        stdout=subprocess.DEVNULL,
    )
    if made.returncode:
        raise SystemExit("engine: the weights could not be made into a model for vLLM, see above")
    server = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    address = ["--host", "127.0.0.1", "--port", "{port}", "--served-model-name", MODEL]
    flags = [*VLLM_FLAGS, "--no-enable-prefix-caching"]
    return Engine("vLLM", [*server, *address, *flags], VLLM_ENV, starts_within_s=240.0)


@contextlib.contextmanager
def serving(engine: Engine, core: int, folder: Path) -> Iterator[Server]:
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in engine.command]
    with started(engine.name, command, core, folder, engine.env) as running:
        _wait(running, port, engine.starts_within_s)
        yield Server(f"http://127.0.0.1:{port}", running)


@contextlib.contextmanager
def gateway(engine_url: str, core: int, folder: Path) -> Iterator[Server]:
    """Lamplighter as anybody would run it: an always-on model, an admin key, its log."""
    port = free_port()
    file = folder / "lamplighter.yaml"
    file.write_text(
        f"version: 1\nserver: {{port: {port}}}\nadmin: {{key: engine-admin-key}}\n"
        f"models:\n  {MODEL}:\n    hot: {{urls: [{engine_url}/v1]}}\n"
    )
    command = [sys.executable, "-m", "proxy.cli", "serve", str(file)]
    env = {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder)}
    with started("lamplighter", command, core, folder, env) as running:
        _wait(running, port, 30.0)
        yield Server(f"http://127.0.0.1:{port}", running)


def _wait(running: Started, port: int, within_s: float) -> None:
    """Until the models are listed."""
    until_s = time.monotonic() + within_s
    while running.process.poll() is None and time.monotonic() < until_s:
        if _lists_models(port):
            return
        time.sleep(0.1)
    raise SystemExit(
        f"engine: {running.name} did not serve within {within_s:.0f} s; it last said\n"
        f"{running.last_words()}"
    )


def _lists_models(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
