"""Four real models on a device with room for two: `python -m load_tests.shared_device`.

Takes half an hour, or `--minutes`, and a fifth more for warming up. The gateway in a process of its
own, llama.cpp started by it, callers at random in bursts, half of them with streams. Prints one
table, writes all that was seen as JSON, and ends with an error when a promise is broken: a call
lost or answered wrongly, an eviction that greedy-dual would not have made, turns too close
together, a start that served nobody, or anything left over. Talks to loopback only.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from load_tests.cold import HELD, QUESTION, RIGHT, STORY, held
from load_tests.rig.greedy_dual import by_model, faults, fruitless
from tests.engines.fixtures import LLAMA_FLAGS, SERVED_AS, fetch
from tests.gateway import GatewayProcess, eventually, run_gateway

MODELS = {"one": 8, "two": 4, "three": 2, "four": 1}  # and how often each is asked for
MAX_WAIT_S = 4.0
WARM_UP_SHARE = 0.2  # of the time, in which caches and pools fill
GROWTH_MIB = 24.0
LOOK_S = 1.0
MEAN_PAUSE_S = 4.0  # between the begins of two bursts
STORIES = 12  # in a burst of long answers


def configuration() -> str:
    # One thread: two engines on two cores leave the gateway and the callers some of both.
    flags = [*LLAMA_FLAGS, "--context", "512", "--threads", "1", "--port", "{port}"]
    command = [sys.executable, "-m", "backends.llama_server", "--model", str(fetch()), *flags]
    cold = {"command": command, "idle": "1h", "device": "gpu0", "memory": "1GiB"}
    models = {name: {"served_as": SERVED_AS, "cold": cold} for name in MODELS}
    device = {"memory": "2GiB", "max_wait": f"{MAX_WAIT_S:g}s"}
    # The head of a stream is held until it is known which instance answers: calls are counted.
    defaults = {"keepalive": {"grace": "10m"}}
    parts = {"devices": {"gpu0": device}, "defaults": defaults, "models": models}
    return "\n".join(f"{name}: {json.dumps(part)}" for name, part in parts.items())


class Lost(Exception):
    """A call that was not answered whole and rightly."""


@dataclass
class Call:
    model: str
    stream: bool
    story: bool  # long, and its words are not looked at
    at_s: float
    took_s: float = 0.0
    instance: str = ""
    cold: bool = False
    fault: str = ""  # empty: answered whole and rightly


@dataclass
class Soak:
    """What was seen. Times in seconds since the begin."""

    gateway: GatewayProcess
    begun: float = field(default_factory=time.monotonic)
    calls: list[Call] = field(default_factory=list)
    evictions: dict[int, dict[str, Any]] = field(default_factory=dict)
    most_used: int = 0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.begun

    async def call(
        self, http: httpx2.AsyncClient, model: str, *, stream: bool, story: bool
    ) -> None:
        call = Call(model, stream, story, self.now_s)
        self.calls.append(call)
        try:
            await asyncio.wait_for(self._ask(http, call), 600)
        except Exception as error:  # whatever it is, the call is lost
            call.fault = f"{type(error).__name__}: {error}"
        call.took_s = self.now_s - call.at_s

    async def _ask(self, http: httpx2.AsyncClient, call: Call) -> None:
        asked, tokens = (STORY, 48) if call.story else (QUESTION, 12)
        body = {"model": call.model, "messages": asked, "max_tokens": tokens, "temperature": 0}
        async with http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": call.stream}
        ) as answer:
            text = (await answer.aread()).decode()
        call.instance = answer.headers.get("x-lamplighter-instance", "")
        call.cold = answer.headers.get("x-lamplighter-cold-start") == "true"
        said = _said_in_stream(text) if call.stream else _said(answer.status_code, text)
        if not said if call.story else said != RIGHT:
            raise Lost(f"it said {said[:200]!r}")

    async def look(self) -> None:
        """Take down who is on the device and who was evicted, again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            asked_s = self.now_s
            self.learn(await asyncio.to_thread(self.device), asked_s)

    def loading_s(self) -> float:
        """How long all starts together took, as the gateway has measured them."""
        page = self.gateway.http.get("/metrics").text.splitlines()
        totals = [line for line in page if line.startswith("lamplighter_cold_start_seconds_sum")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in totals if 'stage="total"' in line)

    def device(self) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.admin("GET", "/devices").json()["devices"][0]
        return found

    def learn(self, device: dict[str, Any], asked_s: float) -> None:
        self.most_used = max(self.most_used, device["used"])
        for eviction in device["evictions"]:
            if eviction["number"] not in self.evictions:
                at_s = asked_s - eviction["ago_s"]
                self.evictions[eviction["number"]] = {**eviction, "at_s": round(at_s, 3)}


def _said(status: int, text: str) -> str:
    if status != 200:
        raise Lost(f"{status}: {text[:200]}")
    answer: str = json.loads(text)["choices"][0]["message"]["content"]
    return answer


def _said_in_stream(text: str) -> str:
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event[:5] == "data:"]
    if not events or events[-1] != "[DONE]":
        raise Lost(f"a stream that ends with {text[-200:]}")
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    if not any(choice.get("finish_reason") for choice in choices):
        raise Lost("a stream without a finish_reason")
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def callers(soak: Soak, seconds: float, seed: int) -> None:
    """Bursts that overlap, most of them short, some with long answers and no pause between them:
    at times all that is loaded serves while another model is asked for, at times nobody asks.
    """
    chance = random.Random(seed)
    until_s = soak.now_s + seconds
    bursts: list[asyncio.Task[None]] = []
    async with httpx2.AsyncClient(
        base_url=soak.gateway.url, timeout=600.0, trust_env=False
    ) as http:
        while soak.now_s < until_s:
            [model] = chance.choices(list(MODELS), list(MODELS.values()))
            size = chance.choice((1, 2, 3, 8, STORIES))
            work = burst(soak, http, model, size, random.Random(chance.random()))
            bursts.append(asyncio.create_task(work))
            await asyncio.sleep(min(chance.expovariate(1 / MEAN_PAUSE_S), 30.0))
        await asyncio.gather(*bursts)


async def burst(
    soak: Soak, http: httpx2.AsyncClient, model: str, size: int, chance: random.Random
) -> None:
    calls: list[asyncio.Task[None]] = []
    for _ in range(size):
        work = soak.call(http, model, stream=chance.random() < 0.5, story=size == STORIES)
        calls.append(asyncio.create_task(work))
        await asyncio.sleep(chance.uniform(0.0, 1.0))
    await asyncio.gather(*calls)


def stop_all(gateway: GatewayProcess) -> None:
    for name in MODELS:
        gateway.admin("POST", f"/models/{name}/stop")
    process = psutil.Process(gateway.process.pid)
    eventually(lambda: not process.children(recursive=True), 20, "all of it is stopped")
    gateway.http.close()  # its own connection counts too
    gateway.http = httpx2.Client(base_url=gateway.url, timeout=30.0, trust_env=False)


async def run(gateway: GatewayProcess, minutes: float, seed: int) -> dict[str, Any]:
    """The whole of it: warming up, the soak itself, and what is left over of each."""
    soak = Soak(gateway)
    looking = asyncio.create_task(soak.look())
    seconds = minutes * 60
    await callers(soak, WARM_UP_SHARE * seconds, seed)
    await asyncio.to_thread(stop_all, gateway)
    before = await asyncio.to_thread(held, gateway)
    await callers(soak, seconds, seed + 1)
    soak.learn(await asyncio.to_thread(soak.device), soak.now_s)
    ended_s = soak.now_s
    looking.cancel()
    at_rest = await asyncio.to_thread(soak.device)
    await asyncio.to_thread(stop_all, gateway)
    after = await asyncio.to_thread(held, gateway)
    return judge(soak, ended_s, at_rest, before, after)


def judge(
    soak: Soak,
    ended_s: float,
    at_rest: dict[str, Any],
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    evictions = list(soak.evictions.values())  # in the order in which they went
    answered = Counter(call.instance for call in soak.calls if not call.fault)
    lost = [asdict(call) for call in soak.calls if call.fault]
    took_s = sorted(call.took_s for call in soak.calls)
    broken = faults(evictions, answered, MAX_WAIT_S)
    broken += [f"a call to {call['model']} was lost: {call['fault']}" for call in lost]
    broken += _left_over(at_rest, before, after)
    wasted = fruitless(evictions, answered)
    if wasted:
        broken.append(f"{wasted} starts served nobody before they were undone")
    if soak.most_used > at_rest["memory"]:
        broken.append(f"{soak.most_used} bytes of the device were in use")
    return {
        "minutes": round(ended_s / 60, 2),
        "calls": len(soak.calls),
        "by model": dict(Counter(call.model for call in soak.calls)),
        "lost": len(lost),
        "cold": sum(call.cold for call in soak.calls),
        "p50_s": took_s[len(took_s) // 2],
        "p99_s": took_s[int(0.99 * len(took_s))],
        "longest_s": took_s[-1],
        "instances": len(answered),
        "evictions": len(evictions),
        "evictions by model": by_model(evictions),
        "turns": sum(e["served"] for e in evictions),
        "evictions a minute": round(len(evictions) / (ended_s / 60), 2),
        "calls for each start": round(sum(answered.values()) / max(len(answered), 1), 1),
        "share of time loading": round(soak.loading_s() / ended_s, 3),
        "held before": before,
        "held after": after,
        "broken": broken,
        "log": evictions,
    }


def _left_over(
    at_rest: dict[str, Any], before: dict[str, float], after: dict[str, float]
) -> list[str]:
    found = []
    if at_rest["waiting"]:
        found.append(f"somebody still waits: {at_rest['waiting']}")
    for what in HELD[:-1]:
        if after[what] > before[what]:
            found.append(f"{what}: {before[what]:.0f} before, {after[what]:.0f} after")
    if after["MiB"] - before["MiB"] > GROWTH_MIB:
        found.append(f"{after['MiB'] - before['MiB']:.1f} MiB more than before")
    return found


def show(report: dict[str, Any]) -> None:
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    for name, value in report.items():
        if name not in ("log", "held before", "held after", "broken"):
            print(f"{name:28} {value if not isinstance(value, float) else f'{value:.4g}'}")
    for what in HELD:
        print(f"{what:28} {report['held before'][what]:.1f} -> {report['held after'][what]:.1f}")
    print(f"{'broken promises':28} {len(report['broken'])}")
    for fault in report["broken"][:20]:
        print(f"  {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=20261121, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("shared_device.json"), metavar="FILE")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_gateway(Path(folder), configuration()) as gateway,
    ):
        report = asyncio.run(run(gateway, options.minutes, options.seed))
    options.json.write_text(json.dumps({"seed": options.seed, **report}, indent=1) + "\n")
    show(report)
    sys.exit(1 if report["broken"] else 0)


if __name__ == "__main__":
    main()
