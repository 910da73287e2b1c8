"""What is compared: how each gateway is started in front of the rig's upstream, at its defaults."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from load_tests.rig.calls import post, small_body
from load_tests.rig.environment import Environment
from load_tests.rig.processes import Started, free_port, started, wait_until_answering

MODELS = ("plain", "pace-20ms", "pace-1000ms")
ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "rig-admin-key"


def lamplighter(folder: Path, port: int, upstream_port: int) -> list[str]:
    url = f"http://127.0.0.1:{upstream_port}/v1"
    lines = ["version: 1", f"server: {{port: {port}}}", f"admin: {{key: {ADMIN_KEY}}}", "models:"]
    for name in MODELS:
        lines += [f"  {name}:", f"    hot: {{urls: [{url}]}}", f"    aliases: [{name}-alias]"]
        lines += ["    price: {input: 0.1, output: 0.4}"]
    file = folder / "lamplighter.yaml"
    file.write_text("\n".join(lines) + "\n")
    return [sys.executable, "-m", "proxy.cli", "serve", str(file)]


def vllm_router(environment: Environment, port: int, upstream_port: int) -> list[str]:
    command = [environment.program("vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--policy", "round_robin", "--worker-urls", f"http://127.0.0.1:{upstream_port}"]
    return [*command, "--prometheus-port", str(free_port())]


def command_of(
    name: str, environment: Environment, folder: Path, port: int, upstream_port: int
) -> list[str]:
    if name == "lamplighter":
        return lamplighter(folder, port, upstream_port)
    if name == "vllm-router":
        return vllm_router(environment, port, upstream_port)
    raise ValueError(json.dumps(name))


@contextlib.contextmanager
def gateway(
    name: str, environment: Environment, core: int, folder: Path, upstream_port: int
) -> Iterator[tuple[Started, int]]:
    """The gateway, answering, and its port."""
    port = free_port()
    own = folder / f"{name}-{port}"
    own.mkdir()
    command = command_of(name, environment, own, port, upstream_port)
    env = {"XDG_RUNTIME_DIR": str(own), "PYTHONPATH": str(ROOT)} if name == "lamplighter" else {}
    with started(name, command, core, own, env) as running:
        wait_until_answering(running, port, post(small_body()), 120.0)
        yield running, port
