"""What starting on demand does to callers, on a real llama.cpp: `python -m load_tests.cold`.

Six parts, each a line of the table it prints: first token of a cold start; a crowd at a model that
is off; the same with callers who leave; a server killed under streams; hundreds of starts and
stops; models that cannot start. Takes about four minutes on two cores, talks to loopback only, ends
by itself, and with an error when a promise is broken. `--quick` takes one minute.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from openai import APIError, AsyncOpenAI

from tests.engines.fixtures import LLAMA_FLAGS, SERVED_AS, fetch
from tests.gateway import GatewayProcess, eventually, run_gateway

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
STORY: Any = [{"role": "user", "content": "Tell me a long story about a lamplighter."}]
RIGHT = "The capital of France is Paris."


def configuration() -> str:
    flags = [*LLAMA_FLAGS, "--parallel", "32", "--context", "512", "--port", "{port}"]
    server = [sys.executable, "-m", "backends.llama_server", "--model", str(fetch()), *flags]
    run = f"{sys.executable}, -c"
    bad = {
        "crashing": f"[{run}, 'print(\"no memory {{port}}\"); exit(3)']",
        "missing": "[no-such-program, '{port}']",
        "silent": f"[{run}, 'import time; print(\"loading for ever\", {{port}}); time.sleep(99)']",
    }
    models = [f"  cold: {{served_as: {SERVED_AS}, cold: {{command: {server!r}, idle: 1h}}}}"]
    models += [
        f"  {name}: {{cold: {{command: {command}, start_within: 3s}}}}"
        for name, command in bad.items()
    ]
    return "models:\n" + "\n".join(models)


class Caller:
    """The openai client, and what an answer comes to."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._client = AsyncOpenAI(
            base_url=gateway.base_url, api_key="none", max_retries=0, timeout=120
        )

    async def plain(self, model: str = "cold") -> str:
        answer = await self._client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=12, temperature=0
        )
        return answer.choices[0].message.content or ""

    async def stream(self, messages: Any = QUESTION, max_tokens: int = 12) -> tuple[str, float]:
        """The text, and the seconds to its first token."""
        begun = time.perf_counter()
        first, text, finished = 0.0, "", False
        async for chunk in await self._client.chat.completions.create(
            model="cold", messages=messages, max_tokens=max_tokens, temperature=0, stream=True
        ):
            for choice in chunk.choices:
                if choice.delta.content and not first:
                    first = time.perf_counter() - begun
                text += choice.delta.content or ""
                finished = finished or choice.finish_reason is not None
        assert finished, "a stream ended without a finish_reason and without an error"
        return text, first

    async def close(self) -> None:
        await self._client.close()


def stop(gateway: GatewayProcess) -> None:
    gateway.admin("POST", "/models/cold/stop")
    eventually(lambda: not gateway.model("cold")["instances"], 20, "it is stopped")


def starts(gateway: GatewayProcess) -> int:
    return gateway.log.count("is provisioning")


async def first_token(gateway: GatewayProcess, caller: Caller, times: int) -> str:
    seconds = []
    for _ in range(times):
        await asyncio.to_thread(stop, gateway)
        text, first = await caller.stream()
        assert text == RIGHT, text
        seconds.append(first)
    quantiles = statistics.quantiles(seconds, n=10, method="inclusive")
    return (
        f"n={times}  p50 {statistics.median(seconds):.2f} s  p90 {quantiles[8]:.2f} s  "
        f"max {max(seconds):.2f} s"
    )


async def crowd(gateway: GatewayProcess, caller: Caller, size: int, leaving: int) -> str:
    await asyncio.to_thread(stop, gateway)
    before = starts(gateway)
    calls = [asyncio.create_task(caller.plain() if n % 2 else _text(caller)) for n in range(size)]
    leavers = calls[:leaving]
    await asyncio.sleep(0.25 if leaving else 0)  # in the middle of the start
    waiting = (await asyncio.to_thread(gateway.model, "cold"))["waiting"] if leaving else size
    for call in leavers:
        call.cancel()
    left_at = time.perf_counter()
    gone_after = 0.0
    while leaving and (await asyncio.to_thread(gateway.model, "cold"))["waiting"] > size - leaving:
        gone_after = time.perf_counter() - left_at
    found = Counter(await asyncio.gather(*calls, return_exceptions=True))
    right = found.pop(RIGHT, 0)
    odd = {str(k)[:80]: n for k, n in found.items() if not isinstance(k, asyncio.CancelledError)}
    rest = await asyncio.to_thread(gateway.model, "cold")
    result = f"{right} right answers, {len(odd)} kinds of others, {starts(gateway) - before} start"
    if leaving:
        result += f"; {waiting} waited, {leaving} left: gone from the queue in {gone_after:.2f} s"
    assert not odd, odd
    return result + f"; left over: {rest['in_flight']} in flight, {rest['waiting']} waiting"


async def _text(caller: Caller) -> str:
    return (await caller.stream())[0]


async def killed(gateway: GatewayProcess, caller: Caller, rounds: int) -> str:
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        await caller.plain()
        old, victim = await asyncio.to_thread(_server, gateway)
        calls = [asyncio.create_task(_outcome(caller, n)) for n in range(50)]
        await asyncio.sleep(3.0)
        os.kill(victim, signal.SIGKILL)
        outcomes.update(await asyncio.gather(*calls))
        assert await caller.plain() == RIGHT
        new, _ = await asyncio.to_thread(_server, gateway)
        assert new != old, "the same instance answered after it was killed"
    odd = [what for what in outcomes if what.startswith("OTHER")]
    assert not odd, odd
    counts = ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
    return f"{counts}, 0 others ({rounds} kills, each time a new instance answered next)"


async def _outcome(caller: Caller, number: int) -> str:
    try:  # short ones end before the kill or begin anew after it; long ones are cut
        await caller.stream(STORY, 4 if number % 5 == 0 else 300)
    except APIError as error:
        return f"error frames ({error.code})"
    except Exception as error:
        return f"OTHER: {type(error).__name__}"
    return "whole answers"


def _server(gateway: GatewayProcess) -> tuple[str, int]:
    """The instance, and its llama.cpp process: the one below the guard."""
    [instance] = [i["id"] for i in gateway.model("cold")["instances"] if i["state"] == "ready"]
    return instance, next(
        p.pid for p in gateway.children() if "backends.llama_server" in p.cmdline()
    )


HELD = ("children", "descriptors", "threads", "listening ports", "connections", "MiB")


def held(gateway: GatewayProcess) -> dict[str, float]:
    """What the gateway holds on to, by the names of HELD; zombies are children too."""
    process = psutil.Process(gateway.process.pid)
    tcp = [s.status for s in process.net_connections("tcp")]
    found = (
        len(process.children(recursive=True)),
        process.num_fds(),
        process.num_threads(),
        tcp.count(psutil.CONN_LISTEN),
        tcp.count(psutil.CONN_ESTABLISHED),
        process.memory_info().rss / 2**20,
    )
    return dict(zip(HELD, found, strict=True))


async def cycle(gateway: GatewayProcess, caller: Caller, number: int) -> None:
    """One start, in turn by a call and by the operator, and one stop."""

    def started() -> bool:
        return any(i["state"] == "ready" for i in gateway.model("cold")["instances"])

    if number % 2:
        assert await caller.plain() == RIGHT
    else:
        await asyncio.to_thread(gateway.admin, "POST", "/models/cold/start")
        await asyncio.to_thread(eventually, started, 20, "it is ready")
    await asyncio.to_thread(stop, gateway)


async def cycles(gateway: GatewayProcess, caller: Caller, times: int) -> str:
    for number in range(10):  # the first ones fill caches and pools
        await cycle(gateway, caller, number)
    before = await asyncio.to_thread(held, gateway)
    launched = starts(gateway)
    for number in range(times):
        await cycle(gateway, caller, number)
    assert starts(gateway) - launched == times
    after = await asyncio.to_thread(held, gateway)
    changes = (f"{what} {before[what]:.0f} -> {after[what]:.0f}" for what in HELD)
    return f"{times} cycles: " + ", ".join(changes)


LAST_WORDS = {"crashing": "no memory", "missing": "no-such-program", "silent": "loading for ever"}


async def bad(gateway: GatewayProcess, caller: Caller) -> str:
    async def told(model: str) -> str:
        begun = time.perf_counter()
        try:
            await caller.plain(model)
        except APIError as error:
            refusal = error
        else:
            raise AssertionError(f"{model} answered")
        took = time.perf_counter() - begun
        assert f"'{model}'" in refusal.message, refusal.message
        assert LAST_WORDS[model] in refusal.message, refusal.message
        return f"{model}: {refusal.code} in {took:.1f} s"

    async def others() -> float:
        """The longest of ten calls to another model meanwhile."""
        longest = 0.0
        for _ in range(10):
            begun = time.perf_counter()
            assert await caller.plain() == RIGHT
            longest = max(longest, time.perf_counter() - begun)
        return longest

    await caller.plain()  # the good one is on
    waiters = [told(model) for model in LAST_WORDS for _ in range(5)]
    longest, *results = await asyncio.gather(others(), *waiters)
    return (
        "; ".join(sorted(set(results)))
        + "; each of 5 waiters heard the model's name and its last log lines"
        + f"; 10 calls to another model meanwhile: at most {longest:.2f} s each"
    )


async def measure(gateway: GatewayProcess, quick: bool) -> None:
    caller = Caller(gateway)
    parts = {
        "first token of a cold start": first_token(gateway, caller, 5 if quick else 20),
        "100 callers, model off": crowd(gateway, caller, 100, 0),
        "100 callers, 30 leave": crowd(gateway, caller, 100, 30),
        "kill -9 under 50 streams": killed(gateway, caller, 1 if quick else 5),
        "starts and stops": cycles(gateway, caller, 20 if quick else 200),
        "models that cannot start": bad(gateway, caller),
    }
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}", flush=True)
    for name, part in parts.items():
        print(f"{name:28} {await part}", flush=True)
    await caller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_gateway(Path(folder), configuration()) as gateway,
    ):
        asyncio.run(measure(gateway, options.quick))


if __name__ == "__main__":
    main()
