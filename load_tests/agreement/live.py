"""The live run: a real gateway with three models, its callers, and what it left in its store."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2

from load_tests.agreement.decisions import Decisions, Event, Served
from load_tests.agreement.demand import HABITS, Ask, asks
from proxy.weights import fetch
from tests.engines.fixtures import LLAMA_FLAGS, SERVED_AS, free_port
from tests.gateway import GatewayProcess, eventually, run_gateway

STORE, TIMES = "requests.db", "recorded.json"
AFTERWARDS_S = 20.0  # for the last descents
WAKES = {"provisioning": "start", "waking": "wake"}
MOVE = re.compile(r"^(\S+ \S+) .*: model (\S+): (\S+) -> (on_demand|always_on|api): (.*)$", re.M)


@dataclass(frozen=True)
class Recorded:
    """A run that is over. Times are seconds since the epoch."""

    file: Path
    store: Path
    log: str
    began_s: float
    ended_s: float


def _command(port: str) -> list[str]:
    flags = [*LLAMA_FLAGS, "--threads", "1", "--context", "512", "--port", port]
    return [sys.executable, "-m", "backends.llama_server", "--model", str(fetch()), *flags]


def configuration(store: Path, api: str) -> str:
    """Prices at which a server, which starts in a second or two, is held for some seconds.

    They make each placement the cheapest one at some time, by the demand of `HABITS`.
    """
    cold = f"command: {_command('{port}')!r}, start_time: 1s"
    bought = f"url: '{api}', model: {SERVED_AS}"
    lines = [
        f"store: {{path: '{store}'}}",
        "defaults: {placement: {every: 1m, dwell: 2m, hysteresis: 0.05}}",
        "models:",
        f"  plain: {{served_as: {SERVED_AS}, delay_hour: 8, cold: {{{cold}, gpu_hour: 2}}}}",
        f"  rented: {{served_as: {SERVED_AS}, delay_hour: 3, cold: {{{cold}, gpu_hour: 2}},",
        f"    api: {{{bought}, price: {{input: 21, output: 42}}}}}}",
        f"  mixed: {{served_as: {SERVED_AS}, delay_hour: 2, cold: {{{cold}, gpu_hour: 1}},",
        f"    api: {{{bought}, price: {{input: 20, output: 50}}}}}}",
    ]
    return "\n".join(lines)


@contextmanager
def outside_api(folder: Path) -> Iterator[str]:
    """An always-on server of the same kind that stands in for somebody else's."""
    port = free_port()
    with (folder / "api.log").open("wb") as log:
        server = subprocess.Popen(_command(str(port)), stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        eventually(lambda: _answers(f"{url}/models"), 60, "the outside API is up")
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def recorded(folder: Path) -> Recorded:
    """The run of which a folder has the configuration, the store, the log and the times."""
    log = (folder / "gateway.log").read_text(errors="replace")
    times_s = json.loads((folder / TIMES).read_text())
    return Recorded(folder / "gateway.yaml", folder / STORE, log, **times_s)


def run(folder: Path, length_s: float, seed: int) -> None:
    """Blocks for as long, and some seconds."""
    store = folder / STORE
    with outside_api(folder) as api, run_gateway(folder, configuration(store, api)) as gateway:
        decided = gateway.model(HABITS[0].model)["decisions"]["placement"]
        began_s = time.time() - decided["for_s"]
        asyncio.run(_ask_all(gateway, length_s, seed))
        time.sleep(AFTERWARDS_S)
        ended_s = time.time()
        gateway.stop()
    (folder / TIMES).write_text(json.dumps({"began_s": began_s, "ended_s": ended_s}))


async def _ask_all(gateway: GatewayProcess, length_s: float, seed: int) -> None:
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(
            base_url=gateway.url, timeout=120, trust_env=False, limits=limits
        ) as client,
        asyncio.TaskGroup() as calls,
    ):
        begun_s = time.monotonic()
        everything = [ask for habit in HABITS for ask in asks(habit, length_s, seed)]
        for ask in sorted(everything, key=lambda ask: ask.at_s):
            await asyncio.sleep(max(begun_s + ask.at_s - time.monotonic(), 0.0))
            calls.create_task(_ask(client, ask))


async def _ask(client: httpx2.AsyncClient, ask: Ask) -> None:
    """Whatever comes of it is in the store."""
    answer = await client.post("/v1/chat/completions", json=ask.body, headers=dict(ask.headers))
    await answer.aread()


def decisions(recorded: Recorded) -> dict[str, Decisions]:
    """By model, with times from the beginning of the run."""
    found = {habit.model: Decisions() for habit in HABITS}
    with closing(sqlite3.connect(recorded.store)) as database:
        query = "SELECT time, model, placement, cold, reasons FROM requests ORDER BY time"
        for at_s, model, where, cold, reasons in database.execute(query):
            served = Served(at_s - recorded.began_s, where, bool(cold), reasons)
            found[model].requests.append(served)
        query = "SELECT time, model, state, rung FROM transitions ORDER BY time"
        for at_s, model, state, rung in database.execute(query):
            what = WAKES.get(state) or {"sleeping": rung, "draining": "off"}.get(state)
            if what is not None and at_s < recorded.ended_s:
                found[model].events.append(Event(at_s - recorded.began_s, what))
    for stamp, model, _, to, why in MOVE.findall(recorded.log):
        at_s = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        found[model].events.append(Event(at_s - recorded.began_s, to, why))
    for each in found.values():
        each.events.sort(key=lambda event: event.at_s)
    return found
