"""Processes that end unasked, or stop: what breaks with them, and what does not."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.cold.scenes import ask, cold
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, answer, chunk, events
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, counted, model, yaml
from tests.relay.callers import Caller, Cut, request
from tests.workers.scenes import (
    WORKERS,
    all_end,
    ask_on,
    ended,
    everything,
    one_each,
    socket_folder,
    taken,
)


@pytest.fixture
def gateway(fakes: FakeServers, tmp_path: Path) -> Iterator[GatewayProcess]:
    models = {"hot": model(fakes.urls[:1]), "started": cold("--with-child")}
    text = yaml(models, server={"drain_within": "5s"})
    with run_gateway(tmp_path, text, workers=WORKERS) as running:
        yield running


def replaced(gateway: GatewayProcess, gone: psutil.Process) -> bool:
    now = gateway.workers()
    return len(now) == WORKERS and gone.pid not in [worker.pid for worker in now]


def test_killed_worker_breaks_its_own_connections_only_and_is_replaced(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    gates = [Gate() for _ in range(WORKERS)]
    fakes.script(*[events(chunk("a"), gate, chunk("b"), DONE) for gate in gates])
    callers = one_each(gateway)
    for gate, (caller, _) in zip(gates, callers, strict=True):
        caller.send(request(chat("hot", stream=True)))
        fakes.reached(gate)
    (unlucky, victim), *lucky = callers
    victim.kill()
    with unlucky, pytest.raises(Cut):
        unlucky.answer()
    for gate in gates:
        fakes.open(gate)
    for caller, _ in lucky:
        with caller:
            assert caller.answer().body.endswith(DONE)
            assert ask_on(caller, "hot").status == 200
    for _ in range(2 * WORKERS):  # nobody is dealt to the dead
        with Caller(gateway) as caller:
            assert ask_on(caller, "hot").status == 200
    eventually(lambda: replaced(gateway, victim), 10, "another worker")
    for caller, _ in one_each(gateway):
        with caller:
            assert ask_on(caller, "hot").status == 200
    assert "is replaced" in gateway.log


def test_worker_killed_under_load_costs_no_more_than_the_calls_it_had(
    gateway: GatewayProcess,
) -> None:
    callers, calls = 6, 60
    victim = gateway.workers()[0]
    begun = threading.Barrier(callers + 1)

    def call_often() -> int:
        failed = 0
        for number in range(calls):
            if number == calls // 3:
                begun.wait(30)
            with Caller(gateway) as caller:
                try:
                    failed += ask_on(caller, "hot").status != 200
                except (Cut, OSError):
                    failed += 1
        return failed

    with ThreadPoolExecutor(callers) as pool:
        found = [pool.submit(call_often) for _ in range(callers)]
        begun.wait(30)
        victim.kill()
        assert sum(each.result() for each in found) <= callers
    eventually(lambda: replaced(gateway, victim), 10, "another worker")


def test_metrics_add_up_and_do_not_fall_when_a_worker_is_killed(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    fakes.script(*[answer({"text": "a", "usage": usage})] * (2 * WORKERS))
    callers = one_each(gateway)
    for caller, _ in callers:
        with caller:
            for _ in range(2):
                assert ask_on(caller, "hot").status == 200
    body = {"model": "hot", "input": "x"}
    with Caller(gateway) as caller:  # is the owner's
        assert caller.send(request(body, path="/v1/responses")).answer().status == 200
    assert counted(gateway, "hot") == {"ok": 2.0 * WORKERS + 1}
    assert counted(gateway, "hot", "tokens", "type")["input"] >= 7.0 * 2 * WORKERS
    victim = callers[0][1]
    victim.kill()
    eventually(lambda: replaced(gateway, victim), 10, "another worker")
    assert counted(gateway, "hot") == {"ok": 2.0 * WORKERS + 1}
    assert ask(gateway, "hot").status_code == 200
    assert counted(gateway, "hot") == {"ok": 2.0 * WORKERS + 2}


def test_requests_in_flight_are_those_of_all_workers(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(*[events(chunk("a"), End.STALL)] * WORKERS)
    callers = one_each(gateway)
    for caller, _ in callers:
        caller.send(request(chat("hot", stream=True))).until(b'"a"')
    assert gateway.model("hot")["in_flight"] == WORKERS
    for caller, _ in callers:
        caller.socket.close()
    eventually(lambda: gateway.model("hot")["in_flight"] == 0, 5)


def test_owner_that_is_killed_takes_workers_and_servers_along(gateway: GatewayProcess) -> None:
    assert ask(gateway, "started").status_code == 200
    processes, folder = everything(gateway), socket_folder(gateway)
    assert len(processes) == WORKERS + 3
    gateway.process.kill()
    gateway.process.wait()
    all_end(processes)
    assert not folder.exists()


def test_owner_that_is_killed_leaves_streams_of_workers_their_time(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    with Caller(gateway) as caller:
        caller.send(request(chat("hot", stream=True)))
        fakes.reached(gate)
        processes = everything(gateway)
        gateway.process.kill()
        eventually(lambda: sum(map(ended, processes)) == WORKERS - 1, 10, "the idle ones end")
        fakes.open(gate)
        assert caller.answer().body.endswith(DONE)
    all_end(processes)


def test_all_killed_at_once_leaves_no_process(gateway: GatewayProcess) -> None:
    assert ask(gateway, "started").status_code == 200
    processes = everything(gateway)
    for pid in [gateway.process.pid, *[worker.pid for worker in gateway.workers()]]:
        os.kill(pid, signal.SIGKILL)
    gateway.process.wait()
    all_end(processes)


def test_stopped_worker_holds_up_nobody_for_ever_and_is_killed_at_the_end(
    gateway: GatewayProcess,
) -> None:
    stopped = gateway.workers()[0]
    stopped.suspend()
    try:
        callers = [Caller(gateway, 60) for _ in range(3 * WORKERS)]
        for caller in callers:
            caller.send(request(chat("hot")))
        for caller in callers:  # those that it was dealt are taken back
            with caller:
                assert caller.answer().status == 200
        assert json.loads(gateway.admin("GET", "/models").text)["models"]
        for _ in range(2 * WORKERS):
            with Caller(gateway) as caller:
                assert taken(gateway, caller).pid != stopped.pid
        processes = everything(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(40) == 0
        assert all(map(ended, processes))
    finally:
        if not ended(stopped):
            stopped.resume()


def test_second_sigterm_does_not_wait_for_a_stopped_worker(
    fakes: FakeServers, tmp_path: Path
) -> None:
    text = yaml({"hot": model(fakes.urls[:1])}, server={"drain_within": "10m"})
    with run_gateway(tmp_path, text, workers=2) as gateway:
        stopped = gateway.workers()[0]
        stopped.suspend()
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining: " in gateway.log, 5, "it drains")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(60) == 0
        assert ended(stopped)
