"""`lamplighter demo`: a small real model on this CPU, once always on and once started on demand.

Nothing here is special to the gateway: the always-on server is launched by the same launcher as
every other, and the configuration is a plain one that could stand in a file.
"""

import asyncio
import logging
import sys
from pathlib import Path

import uvloop
import yaml
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from backends.launchers import LaunchFailed, LaunchSpec, Running
from backends.launchers.process import ProcessLauncher
from backends.log_ring import LogRing
from backends.readiness import WrongModel, ready_or_exited
from config.load import parse
from config.schema import Config
from proxy.process import log_to_stderr
from proxy.serve import serve_gateway
from proxy.weights import WeightsError, fetch

MODEL = "smollm2-135m-instruct"
HOT, COLD = "hot", "cold"
IDLE = "10s"
START_WITHIN_S = 60.0


class DemoError(Exception):
    """The demo cannot start; the message says what to do."""


def run_demo(host: str, port: int, console: Console) -> None:
    """Serve until Ctrl-C. Exits with 1 and one clear line when a part is missing."""
    try:
        weights = fetch(console)
        uvloop.run(_serve(weights, host, port, console))
    except (WeightsError, DemoError) as error:
        # Escaped, or rich takes the [demo] of a pip line for markup; not wrapped, to be copied.
        said = f"[bold red]lamplighter demo:[/] {escape(str(error))}"
        console.print(said, highlight=False, soft_wrap=True)
        sys.exit(1)


async def _serve(weights: Path, host: str, port: int, console: Console) -> None:
    running = await _always_on(weights, console)
    try:
        _log_to(console)
        config = demo_config(weights, running.url)
        await serve_gateway(
            config, None, host, port, on_started=lambda at: _welcome(console, host, at)
        )
    finally:
        await running.stop(within_s=5.0)


def command(weights: Path) -> list[str]:
    """llama.cpp's server as the process launcher starts it."""
    server = ["{python}", "-m", "backends.llama_server", "--model", str(weights)]
    return [*server, "--template", "chatml", "--port", "{port}", "--alias", "{served_as}"]


def demo_config(weights: Path, hot_url: str) -> Config:
    """The configuration, as YAML would say it."""
    cold = {"command": command(weights), "idle": IDLE, "start_within": "60s"}
    document = {
        "version": 1,
        "models": {
            HOT: {"served_as": MODEL, "hot": {"urls": [hot_url]}},
            COLD: {"served_as": MODEL, "cold": cold},
        },
    }
    return parse(yaml.safe_dump(document, sort_keys=False), "demo.yaml", {})


async def _always_on(weights: Path, console: Console) -> Running:
    """A server that plays the always-on pool."""
    spec = LaunchSpec(HOT, MODEL, tuple(command(weights)), {}, "/v1")
    ring = LogRing()
    with console.status("starting the always-on model server"):
        try:
            running = await ProcessLauncher().launch(spec, ring)
        except LaunchFailed as failed:
            raise DemoError(f"the model server could not be started: {failed}") from failed
        try:
            await _ready(running)
        except BaseException as error:
            await running.stop(within_s=1.0)
            if isinstance(error, DemoError | WrongModel):
                tail = "\n".join(ring.tail(10))
                raise DemoError(f"{error}\nLast lines of its log:\n{tail}") from error
            raise
    return running


async def _ready(running: Running) -> None:
    try:
        async with asyncio.timeout(START_WITHIN_S):
            code = await ready_or_exited(running, MODEL, lambda stage: None)
    except TimeoutError:
        raise DemoError(f"the model server was not ready within {START_WITHIN_S:g} s") from None
    if code is not None:
        raise DemoError(
            "the model server ended while it loaded; if llama.cpp is missing: "
            "pip install -e '.[demo]' in the clone"
        )


def _log_to(console: Console) -> None:
    log_to_stderr("INFO")
    root = logging.getLogger()
    root.handlers = [RichHandler(console=console, show_path=False, markup=False)]


def _welcome(console: Console, host: str, port: int) -> None:
    """What to do next, in lines that can be copied."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    console.rule("Lamplighter")
    console.out(
        f"""\
base_url  {url}/v1

Two models, both SmolLM2-135M on this CPU: "{HOT}" is always on; "{COLD}" is off until you ask it
something, and off again {IDLE} after its last answer.

With curl:

curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{{"model": "{COLD}", \
"stream": true, "temperature": 0, \
"messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

With Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
for chunk in client.chat.completions.create(
    model="{COLD}",
    messages=[{{"role": "user", "content": "What is the capital of France?"}}],
    temperature=0,
    stream=True,
):
    print(chunk.choices[0].delta.content or "", end="", flush=True)

What runs:  lamplighter models --url {url}
Ctrl-C ends it.""",
        highlight=False,
    )
    console.rule()
