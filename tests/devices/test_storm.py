"""Random callers of four models that share room for two, while servers are killed."""

import os
import random
import signal
import time
from collections import Counter
from typing import Any

import psutil
import pytest

from tests.cold.scenes import LONG, Crowd, Stream, ask, server_of, yaml
from tests.devices.scenes import NAMES, ROOM_FOR_TWO, device, on_device
from tests.gateway import GatewayProcess, eventually, run_gateway

SEED = 20261121
CALLERS = 8
LASTS_S = 8.0
KILLS = 4


def call_often(gateway: GatewayProcess, seed: int, until_s: float) -> list[str]:
    """What became of each call: whole, or cut by an error that says so."""
    chance = random.Random(seed)
    found = []
    while time.monotonic() < until_s:
        model = chance.choice(NAMES)
        for _ in range(chance.choice((1, 1, 4))):
            tokens = chance.choice((1, 5, 40))
            if chance.random() < 0.5:
                answer = ask(gateway, model, messages=LONG, max_tokens=tokens)
                found.append("whole" if answer.status_code == 200 else answer.text)
            else:
                stream = Stream(gateway, model, max_tokens=tokens).read()
                found.append("whole" if stream.whole else f"cut: {stream.error['code']}")
        time.sleep(chance.uniform(0.0, 0.3))
    return found


def kill_some(gateway: GatewayProcess, seed: int) -> int:
    chance = random.Random(seed)
    killed = 0
    while killed < KILLS:
        time.sleep(chance.uniform(0.5, 1.5))
        states = [gateway.model(name) for name in NAMES]
        assert all("instances" in state for state in states), states
        ready = [i for state in states for i in state["instances"] if i["state"] == "ready"]
        if ready:
            try:
                os.kill(server_of(gateway, chance.choice(ready)), signal.SIGKILL)
            except (AssertionError, ProcessLookupError, psutil.NoSuchProcess):
                continue  # it has just been evicted
            killed += 1
    return killed


@pytest.mark.slow
def test_no_call_is_lost_and_nothing_is_left_over(tmp_path: Any) -> None:
    models = {name: on_device("--pace", "0.01") for name in NAMES}
    with run_gateway(tmp_path, yaml(models, devices=ROOM_FOR_TWO)) as gateway:
        for name in NAMES:
            assert ask(gateway, name).status_code == 200
        until_s = time.monotonic() + LASTS_S
        with Crowd(gateway, CALLERS + 1) as crowd:
            killer = crowd.do(lambda: kill_some(gateway, SEED))
            callers = [
                crowd.do(lambda seed=seed: call_often(gateway, seed, until_s))
                for seed in range(CALLERS)
            ]
            most = 0
            while not all(caller.done() for caller in callers):
                most = max(most, device(gateway)["used"])
                time.sleep(0.05)
            fates = Counter(fate for caller in callers for fate in caller.result())
            killed = killer.result()
        assert killed == KILLS
        assert most == 32 * 2**30
        assert set(fates) <= {"whole", "cut: response_lost"}, fates
        assert fates["whole"] > 50
        assert fates["cut: response_lost"] <= KILLS * CALLERS
        found = device(gateway)
        assert found["waiting"] == []
        assert len(found["evictions"]) >= 3
        for eviction in found["evictions"]:
            first = eviction["candidates"][0]
            assert first["priority"] == min(c["priority"] for c in eviction["candidates"])
            assert eviction["served"] or first["instance"] == eviction["instance"]
        for name in NAMES:
            gateway.admin("POST", f"/models/{name}/stop")
        eventually(lambda: device(gateway)["used"] == 0)
        process = psutil.Process(gateway.process.pid)
        eventually(lambda: not process.children(recursive=True))
