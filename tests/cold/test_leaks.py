"""Hundreds of starts and stops leave nothing behind: processes, ports, descriptors, memory."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.cold.scenes import Crowd, ask, cold, gone, launches, ready, yaml
from tests.gateway import GatewayProcess, run_gateway

CYCLES = 200
BEFOREHAND = 10  # cycles that fill caches and pools
GROWTH = 8 * 2**20  # bytes that the memory of 200 cycles may differ by; 40 KB each would be found
SEED = 20261121


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    models = {
        "cycled": cold("--with-child"),
        "racing": cold(idle="20ms"),
    }
    with run_gateway(tmp_path_factory.mktemp("leaks"), yaml(models)) as running:
        yield running


@dataclass
class Held:
    """What a gateway holds on to."""

    processes: int
    descriptors: int
    threads: int
    listening: int
    connections: int
    memory: int

    @classmethod
    def by(cls, gateway: GatewayProcess) -> "Held":
        process = psutil.Process(gateway.process.pid)
        children = process.children(recursive=True)  # zombies too
        with process.oneshot():
            sockets = process.net_connections("tcp")
            return cls(
                len(children),
                process.num_fds(),
                process.num_threads(),
                sum(s.status == psutil.CONN_LISTEN for s in sockets),
                sum(s.status == psutil.CONN_ESTABLISHED for s in sockets),
                process.memory_info().rss,
            )


def cycle(gateway: GatewayProcess, number: int) -> str:
    """One start, in turn by a call and by hand, and one stop. The URL of the server."""
    if number % 2:
        assert ask(gateway, "cycled").status_code == 200
    else:
        gateway.admin("POST", "/models/cycled/start")
    [instance] = ready(gateway, "cycled")
    gateway.admin("POST", "/models/cycled/stop")
    gone(gateway, "cycled")
    url: str = instance["url"]
    return url


@pytest.mark.slow
def test_two_hundred_starts_and_stops_leave_nothing(gateway: GatewayProcess) -> None:
    for number in range(BEFOREHAND):
        cycle(gateway, number)
    before = Held.by(gateway)
    urls = {cycle(gateway, number) for number in range(CYCLES)}
    after = Held.by(gateway)
    assert launches(gateway, "cycled") == BEFOREHAND + CYCLES
    assert abs(after.memory - before.memory) < GROWTH
    after.memory = before.memory
    assert after == before
    assert after.processes == 0
    ports = {int(url.rsplit(":", 1)[1].split("/")[0]) for url in urls}
    listening = {
        s.laddr.port for s in psutil.net_connections("tcp") if s.status == psutil.CONN_LISTEN
    }
    assert not ports & listening


@pytest.mark.slow
def test_calls_around_the_instant_of_stopping_are_all_served(gateway: GatewayProcess) -> None:
    """Four callers, at random moments about the idle time; one operator who drains."""
    chance = random.Random(SEED)

    def call_often(seed: int) -> list[int]:
        own = random.Random(seed)
        found = []
        for _ in range(80):
            answer = ask(gateway, "racing", stream=own.random() < 0.5)
            whole = "over there" in answer.text or "[DONE]" in answer.text
            found.append(answer.status_code if whole else -1)
            time.sleep(own.uniform(0.0, 0.06))  # the idle time is 20 ms
        return found

    with Crowd(gateway, 4) as crowd:
        callers = [crowd.do(lambda seed=seed: call_often(seed)) for seed in range(4)]
        while not all(caller.done() for caller in callers):
            gateway.admin("POST", "/models/racing/drain")
            time.sleep(chance.uniform(0.0, 0.2))
        found = [status for caller in callers for status in caller.result()]
    assert set(found) == {200}
    assert len(found) == 320
    assert launches(gateway, "racing") > 20
    gone(gateway, "racing")
