"""What is compared: how each gateway is started in front of the rig's upstream, at its defaults.

vllm-router has one worker here, so its lightest policy is the fair one to be held against;
its default, which keeps a tree of the prompts, is a peer of its own. Every gateway has one worker,
but for the Lamplighters with several, which share the one core too: what they need more than one
does is then what N workers on N cores lose.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from load_tests.rig.calls import KEY, post, small_body, stream_body
from load_tests.rig.environment import Environment
from load_tests.rig.processes import Started, free_port, started, wait_until_answering

MODELS = ("plain", "pace-20ms", "pace-1000ms")
ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "rig-admin-key"
STARTS_WITHIN_S = 120.0
WARM_UP = 20


@dataclass(frozen=True)
class Place:
    """Where one gateway is to run."""

    environment: Environment
    folder: Path
    port: int
    upstream_port: int

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


def _lamplighter(place: Place, workers: int = 1) -> list[str]:
    lines = ["version: 1", f"server: {{port: {place.port}}}", f"admin: {{key: {ADMIN_KEY}}}"]
    lines += ["models:"]
    for name in MODELS:
        lines += [f"  {name}:", f"    aliases: [{name}-alias]"]
        lines += [f"    hot: {{urls: [{place.upstream_url}/v1]}}"]
        lines += ["    price: {input: 0.1, output: 0.4}"]
    file = place.write("lamplighter.yaml", "\n".join(lines) + "\n")
    return [sys.executable, "-m", "proxy.cli", "serve", file, "--workers", str(workers)]


def _vllm_router(place: Place, policy: str = "round_robin") -> list[str]:
    return [
        *(place.environment.program("vllm-router"), "--policy", policy),
        *("--host", "127.0.0.1", "--port", str(place.port)),
        *("--worker-urls", place.upstream_url, "--prometheus-port", str(free_port())),
    ]


def _litellm(place: Place) -> list[str]:
    lines = ["model_list:"]
    for name in MODELS:
        lines += [f"  - model_name: {name}", "    litellm_params:", f"      model: openai/{name}"]
        lines += [f"      api_base: {place.upstream_url}/v1", "      api_key: none"]
    lines += [f"general_settings: {{master_key: {KEY}}}", "litellm_settings: {telemetry: false}"]
    file = place.write("litellm.yaml", "\n".join(lines) + "\n")
    litellm = [place.environment.program("litellm"), "--config", file, "--num_workers", "1"]
    return [*litellm, "--host", "127.0.0.1", "--port", str(place.port)]


def _nginx(place: Place) -> list[str]:
    user = "user root;" if os.geteuid() == 0 else ""
    folders = "".join(
        f"  {kind}_temp_path {place.folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = place.write(
        "nginx.conf",
        f"""daemon off; {user} worker_processes 1; pid {place.folder}/nginx.pid;
error_log stderr error; worker_rlimit_nofile 65536;
events {{ worker_connections 30000; }}
http {{
{folders}  access_log off;
  client_max_body_size 32m; client_body_buffer_size 1m;
  keepalive_requests 1000000000; tcp_nodelay on;
  upstream rig {{
    server 127.0.0.1:{place.upstream_port};
    keepalive 10000; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://rig; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
""",
    )
    return [place.environment.program("nginx"), "-e", "stderr", "-p", str(place.folder), "-c", file]


COMMANDS: dict[str, Callable[[Place], list[str]]] = {
    "lamplighter": _lamplighter,
    "lamplighter-2-workers": lambda place: _lamplighter(place, 2),
    "lamplighter-4-workers": lambda place: _lamplighter(place, 4),
    "vllm-router": _vllm_router,
    "vllm-router-cache-aware": lambda place: _vllm_router(place, "cache_aware"),
    "litellm": _litellm,
    "nginx": _nginx,
}


@dataclass(frozen=True)
class Target:
    """What a measurement talks to: a gateway, or the upstream itself."""

    name: str
    port: int
    running: Started | None

    def cpu_s(self) -> float:
        return self.running.cpu_s() if self.running else 0.0

    def rss_bytes(self) -> int:
        return self.running.rss_bytes() if self.running else 0


@contextlib.contextmanager
def gateway(
    name: str, environment: Environment, core: int, folder: Path, upstream_port: int
) -> Iterator[Target]:
    """The gateway, pinned, and warm enough that everything lazy is loaded."""
    port = free_port()
    own = folder / f"{name}-{port}"
    own.mkdir()
    command = COMMANDS[name](Place(environment, own, port, upstream_port))
    env = {"NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    if name.startswith("lamplighter"):
        env |= {"XDG_RUNTIME_DIR": str(own), "PYTHONPATH": str(ROOT)}
    with started(name, command, core, own, env) as running:
        for _ in range(WARM_UP):
            wait_until_answering(running, port, post(small_body()), STARTS_WITHIN_S)
        wait_until_answering(running, port, post(stream_body(20, 2)), STARTS_WITHIN_S)
        yield Target(name, port, running)
