"""SIGTERM while callers are in odd states: none of them holds the gateway up, none is lied to."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, Gate, Step, chunk, events
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, model, yaml
from tests.relay.callers import Caller, Cut, request

STREAM = request(chat("fake", stream=True))
PLAIN = request(chat("fake"))


@pytest.fixture
def patient(fakes: FakeServers, tmp_path: Path) -> Iterator[GatewayProcess]:
    """Waits a minute for what it serves, and for half of a request's head or body."""
    server = {"drain_within": "60s", "header_timeout": "60s", "body_timeout": "60s"}
    with run_gateway(tmp_path, yaml({"fake": model(fakes.urls[:1])}, server=server)) as gateway:
        yield gateway


def test_callers_without_a_whole_request_hold_nothing_up(
    patient: GatewayProcess, fakes: FakeServers
) -> None:
    parts = [b"", b"POST /v1/cha", PLAIN[:-1], STREAM[:60], PLAIN + PLAIN[:30], PLAIN + PLAIN[:-1]]
    with ExitStack() as stack:
        for part in parts:
            caller = stack.enter_context(Caller(patient))
            caller.send(part)
            if part.startswith(PLAIN):
                assert caller.answer().status == 200
        patient.process.send_signal(signal.SIGTERM)
        assert patient.process.wait(20) == 0
    assert len(fakes.posts) == 2


def test_request_behind_a_stream_is_refused_or_cut_and_the_stream_ends_whole(
    patient: GatewayProcess, fakes: FakeServers
) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    with Caller(patient) as caller:
        caller.send(STREAM + PLAIN)
        fakes.reached(gate)
        patient.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining: " in patient.log, what="the drain")
        fakes.open(gate)
        assert caller.answer().body == chunk("a") + chunk("b") + DONE
        try:
            assert caller.answer().status in (200, 503)
        except Cut as cut:
            if cut.got:
                raise
        assert caller.rest() == b""
    assert patient.process.wait(20) == 0


def test_caller_who_does_not_read_is_cut_when_the_time_is_over(
    fakes: FakeServers, tmp_path: Path
) -> None:
    flood: list[Step] = [chunk("x" * 50_000), 0.0] * 2000
    fakes.script(events(*flood))
    text = yaml({"fake": model(fakes.urls[:1])}, server={"drain_within": "300ms"})
    with run_gateway(tmp_path, text) as gateway, Caller(gateway, narrow=True) as caller:
        caller.send(STREAM)
        received = fakes.arrived()
        sent = -1

        def stopped() -> bool:
            nonlocal sent
            was, sent = sent, received.sent
            return was == sent

        eventually(stopped, what="the server is held back")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(25) == 0
        with pytest.raises(Cut):
            caller.answer()
    eventually(received.left.is_set)
