"""A gateway that is told to stop takes nothing new and lets streams end, up to a time."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, chunk, events
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, model, yaml


def configuration(fakes: FakeServers, drain_within: str) -> str:
    return yaml({"fake": model(fakes.urls[:1])}, server={"drain_within": drain_within})


def streaming(gateway: GatewayProcess):
    return gateway.http.stream("POST", "/v1/chat/completions", json=chat("fake", stream=True))


def test_drain_refuses_new_calls_and_ends_streams(fakes: FakeServers, tmp_path: Path) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    with (
        run_gateway(tmp_path, configuration(fakes, "30s")) as gateway,
        streaming(gateway) as response,
    ):
        fakes.reached(gate)
        assert gateway.admin("POST", "/drain").status_code == 202
        got = gateway.http.post("/v1/chat/completions", json=chat("fake"))
        assert (got.status_code, got.json()["error"]["code"]) == (503, "shutting_down")
        assert got.headers["retry-after"] == "1"
        assert gateway.http.get("/ready").status_code == 503
        assert gateway.http.get("/health").status_code == 200
        fakes.open(gate)
        assert response.read() == chunk("a") + chunk("b") + DONE


def test_sigterm_lets_a_stream_end(fakes: FakeServers, tmp_path: Path) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    with run_gateway(tmp_path, configuration(fakes, "30s")) as gateway:
        with streaming(gateway) as response:
            fakes.reached(gate)
            gateway.process.send_signal(signal.SIGTERM)
            eventually(lambda: "draining: 1 request" in gateway.log, what="the drain")
            fakes.open(gate)
            assert response.read() == chunk("a") + chunk("b") + DONE
        assert gateway.process.wait(20) == 0


def test_stream_that_outlasts_the_drain_gets_an_error_event(
    fakes: FakeServers, tmp_path: Path
) -> None:
    fakes.script(events(chunk("a"), End.STALL))
    with run_gateway(tmp_path, configuration(fakes, "200ms")) as gateway:
        with streaming(gateway) as response:
            received = fakes.arrived()
            gateway.process.send_signal(signal.SIGTERM)
            body = response.read()
        assert gateway.process.wait(20) == 0
    assert body.startswith(chunk("a"))
    assert json.loads(body.rpartition(b"data: ")[2])["error"]["code"] == "shutting_down"
    assert b"[DONE]" not in body
    eventually(received.left.is_set, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_call_without_a_byte_at_the_end_of_the_drain_is_503(
    fakes: FakeServers, tmp_path: Path, stream: bool
) -> None:
    fakes.script([End.STALL])
    with run_gateway(tmp_path, configuration(fakes, "200ms")) as gateway:
        request = gateway.http.build_request(
            "POST", "/v1/chat/completions", json=chat("fake", stream=stream)
        )
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(gateway.http.send, request)
            fakes.arrived()
            gateway.process.send_signal(signal.SIGTERM)
            got = asked.result(20)
    assert (got.status_code, got.json()["error"]["code"]) == (503, "shutting_down")


def test_second_sigterm_cuts_off_and_still_ends_in_order(
    fakes: FakeServers, tmp_path: Path
) -> None:
    fakes.script(events(chunk("a"), End.STALL))
    with run_gateway(tmp_path, configuration(fakes, "60s")) as gateway:
        with streaming(gateway) as response:
            eventually(lambda: gateway.model("fake")["in_flight"] == 1)
            gateway.process.send_signal(signal.SIGTERM)
            eventually(lambda: "draining: 1 request" in gateway.log, what="the drain")
            gateway.process.send_signal(signal.SIGTERM)
            assert b"shutting_down" in response.read()
        assert gateway.process.wait(20) == 0


def test_sighup_does_not_end_a_gateway_that_drains(fakes: FakeServers, tmp_path: Path) -> None:
    gate = Gate()
    fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    with run_gateway(tmp_path, configuration(fakes, "30s")) as gateway:
        with streaming(gateway) as response:
            fakes.reached(gate)
            gateway.process.send_signal(signal.SIGTERM)
            eventually(lambda: "draining: 1 request" in gateway.log, what="the drain")
            gateway.process.send_signal(signal.SIGHUP)
            fakes.open(gate)
            assert response.read() == chunk("a") + chunk("b") + DONE
        assert gateway.process.wait(20) == 0
