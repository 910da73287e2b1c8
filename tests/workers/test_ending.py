"""The orderly end of a gateway of several processes, and its reloads."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cold.scenes import Crowd, cold
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, chunk, events
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, model, yaml
from tests.relay.callers import Caller, request
from tests.workers.scenes import (
    WORKERS,
    all_end,
    ask_on,
    ended,
    everything,
    get,
    one_each,
    socket_folder,
)


@pytest.fixture
def gateway(fakes: FakeServers, tmp_path: Path) -> Iterator[GatewayProcess]:
    with run_gateway(tmp_path, text(fakes), workers=WORKERS) as running:
        yield running


def text(fakes: FakeServers, drain_within: str = "30s") -> str:
    models = {"hot": model(fakes.urls[:1]), "started": cold("--pace", "0.1", "--with-child")}
    return yaml(models, server={"drain_within": drain_within})


@pytest.mark.parametrize("to_all", [False, True])
def test_sigterm_lets_streams_end_refuses_new_calls_and_leaves_nothing(
    gateway: GatewayProcess, fakes: FakeServers, to_all: bool
) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    folder = socket_folder(gateway)
    with Crowd(gateway, 1) as crowd, Caller(gateway) as caller:
        [started] = crowd.streams(1, "started", max_tokens=10)
        caller.send(request(chat("hot", stream=True)))
        fakes.reached(gate)
        kept = one_each(gateway)
        processes = everything(gateway)
        for pid in [gateway.process.pid, *[w.pid for w in gateway.workers() if to_all]]:
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: gateway.log.count("draining: ") == 1 + WORKERS, 10, "all drain")
        for late, _ in [*kept, (Caller(gateway), None)]:
            with late:
                got = ask_on(late, "hot")
                assert (got.status, got.error["code"]) == (503, "shutting_down")
        with Caller(gateway) as late:
            assert ask_on(late, "started").error["code"] == "shutting_down"
        with Caller(gateway) as asking:
            assert get(asking, "/ready").status == 503
        assert started.result().whole
        fakes.open(gate)
        assert caller.answer().body.endswith(DONE)
    assert gateway.process.wait(20) == 0
    assert all(map(ended, processes))
    assert not folder.exists()


def test_new_calls_are_refused_while_only_the_owner_is_still_at_work(
    gateway: GatewayProcess,
) -> None:
    with Crowd(gateway, 1) as crowd:
        [started] = crowd.streams(1, "started", max_tokens=15)
        assert gateway.admin("POST", "/drain").status_code == 202
        eventually(lambda: gateway.log.count("draining: ") == 1 + WORKERS, 10, "all drain")
        with Caller(gateway) as caller:
            assert ask_on(caller, "hot").status == 503
        assert started.result().whole


@pytest.mark.parametrize("twice", [False, True])
def test_what_outlasts_the_drain_is_cut_off_with_an_error_event(
    fakes: FakeServers, tmp_path: Path, twice: bool
) -> None:
    fakes.script(*[events(chunk("a"), End.STALL)] * 2)
    configured = text(fakes, "10m" if twice else "300ms")
    with run_gateway(tmp_path, configured, workers=WORKERS) as gateway, Crowd(gateway, 3) as crowd:
        streams = crowd.streams(2, "hot") + crowd.streams(1, "started", max_tokens=200)
        processes = everything(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        if twice:
            eventually(lambda: "draining: " in gateway.log, 5, "it drains")
            gateway.process.send_signal(signal.SIGTERM)
        assert {stream.result().error["code"] for stream in streams} == {"shutting_down"}
        assert gateway.process.wait(20) == 0
        all_end(processes)


def test_last_bytes_to_a_slow_reader_are_written_before_the_end(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(events(*[chunk("x" * 1000)] * 300, DONE))
    with Caller(gateway, narrow=True) as caller:
        caller.send(request(chat("hot", stream=True)))
        eventually(lambda: fakes.arrived().answered, 10)
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining: " in gateway.log, 5, "it drains")
        assert caller.answer().body.endswith(DONE)
    assert gateway.process.wait(20) == 0


def test_reload_reaches_every_worker(gateway: GatewayProcess, fakes: FakeServers) -> None:
    one, two = fakes.urls
    callers = one_each(gateway)

    def load(models: dict[str, object]) -> None:
        gateway.write(yaml(models))
        assert gateway.admin("POST", "/reload").json()["ok"]

    def served(name: str, port: str) -> bool:
        """By the server at this port, whichever worker is asked."""
        got = [ask_on(caller, name) for caller, _ in callers]
        assert {answer.status for answer in got} == {200}
        hosts = {str(answer.header("x-lamplighter-instance")) for answer in got}
        return all(port in host for host in hosts)

    load({"hot": model([two]), "new": model([one])})
    eventually(lambda: served("hot", two.split("/")[2]), 5, "the other URL")
    assert served("new", one.split("/")[2])
    load({"hot": {**model([two]), **{"cold": cold()["cold"]}}, "new": {**cold()}})
    eventually(lambda: served("new", "new@1"), 5, "a model that became cold")
    assert served("hot", two.split("/")[2])
    load({"hot": model([one])})
    eventually(lambda: served("hot", one.split("/")[2]), 5, "hot again")
    for caller, _ in callers:
        with caller:
            assert ask_on(caller, "new").status == 404
