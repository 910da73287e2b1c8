"""Calls that a worker hands to the owner of the instances: the caller sees no difference."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cold.scenes import cold, launches
from tests.fakes.model_server import Received
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, answer, chunk, events
from tests.gateway import ADMIN_KEY, GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, counted, idle, model, yaml
from tests.relay.callers import Answer, Caller, Cut, request
from tests.workers.scenes import WORKERS, ask_on, get, one_each

BIG = 20 * 2**20


def models(fakes: FakeServers) -> dict[str, object]:
    urls = fakes.urls[:1]
    return {
        "started": cold("--ready-after", "0.5"),
        "kept-awake": cold("--ready-after", "1.5", keepalive={"grace": "10ms", "every": "20ms"}),
        "never": cold("--never-ready"),
        "hot": model(urls),
        # The owner's, because it might need an instance; its answers are scripted.
        "handed-on": {**model(urls), "fallback": ["started"]},
    }


@pytest.fixture(scope="module")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    text = yaml(models(fake_servers), server={"max_body": "32MiB"})
    with run_gateway(tmp_path_factory.mktemp("forward"), text, workers=WORKERS) as running:
        yield running


@pytest.fixture(scope="module")
def alone(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """The same in one process."""
    text = yaml(models(fake_servers), server={"max_body": "32MiB"})
    with run_gateway(tmp_path_factory.mktemp("alone"), text, workers=1) as running:
        yield running


def without(got: Answer, *names: bytes) -> list[tuple[bytes, bytes]]:
    return sorted(header for header in got.headers if header[0] not in names)


def test_twenty_calls_over_all_workers_start_a_model_once(gateway: GatewayProcess) -> None:
    callers = [Caller(gateway) for _ in range(20)]
    for number, caller in enumerate(callers):
        caller.send(request(chat("started", stream=bool(number % 2))))
    for number, caller in enumerate(callers):
        with caller:
            got = caller.answer()
            assert got.status == 200
            assert b"over there" in got.body or got.body.endswith(DONE)
            assert got.header("x-lamplighter-model") == "started"
            assert got.header("x-lamplighter-placement") == "cold"
            assert (got.header("transfer-encoding") == "chunked") == bool(number % 2)
    assert launches(gateway, "started") == 1
    assert counted(gateway, "started") == {"ok": 20.0}


def test_comments_keep_a_stream_awake_while_a_model_starts(gateway: GatewayProcess) -> None:
    with Caller(gateway) as caller:
        got = ask_on(caller, "kept-awake", stream=True)
    assert got.body.startswith(b": ")
    assert got.body.endswith(DONE)
    assert got.header("x-lamplighter-model") == "kept-awake"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["hot", "handed-on"])
def test_headers_are_those_of_a_gateway_of_one_process(
    gateway: GatewayProcess, alone: GatewayProcess, fakes: FakeServers, name: str, stream: bool
) -> None:
    heads = []
    for each in (gateway, alone):
        fakes.script(
            events(chunk("a"), DONE, headers=[("openai-version", "1"), ("date", "never")])
            if stream
            else answer({"text": "a"}, headers=[("openai-version", "1"), ("date", "never")])
        )
        with Caller(each) as caller:
            got = ask_on(caller, name, "x-request-id: mine-1", stream=stream)
        assert got.header("x-request-id") == "mine-1"
        assert got.header("date") != "never"
        heads.append(without(got, b"date", b"x-lamplighter-wait-ms"))
        assert fakes.last.header("x-request-id") == "mine-1"
    assert heads[0] == heads[1]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/hot", "/ready", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_control_answers_are_those_of_a_gateway_of_one_process(
    gateway: GatewayProcess, alone: GatewayProcess, path: str, method: str
) -> None:
    found = []
    for each in (gateway, alone):
        with Caller(each) as caller:
            got = get(caller, path, "x-request-id: mine-2", method=method)
            assert get(caller, "/health").body == b"OK"  # the connection goes on
        body = json.loads(got.body) if got.body.startswith(b"{") else got.body
        for entry in body.get("data", [body]) if isinstance(body, dict) else []:
            entry.pop("state", None)
        changing = (b"date", b"content-length") if "models" in path else (b"date",)
        found.append((got.status, without(got, *changing), body))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["hot", "handed-on"])
def test_call_is_logged_and_counted_once(gateway: GatewayProcess, name: str) -> None:
    before = counted(gateway, name).get("ok", 0.0)
    with Caller(gateway) as caller:
        assert ask_on(caller, name, f"x-request-id: once-{name}").status == 200
    assert counted(gateway, name)["ok"] == before + 1
    eventually(lambda: f"once-{name} " in gateway.log, 5, "its line")
    assert gateway.log.count(f"once-{name} ") == 1


def test_root_tells_the_address_that_the_caller_asked(gateway: GatewayProcess) -> None:
    with Caller(gateway) as caller:
        assert b'"http://gateway.example:81/v1"' in get(caller, "/").body


def test_answer_without_a_body_leaves_the_connection_in_step(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script([b"HTTP/1.1 204 No Content\r\n\r\n"])
    with Caller(gateway) as caller:
        got = ask_on(caller, "handed-on")
        assert (got.status, got.header("transfer-encoding")) == (204, None)
        assert get(caller, "/health").body == b"OK"


def test_caller_who_leaves_a_stream_cancels_it_at_the_server(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(events(chunk("a"), End.STALL))
    with Caller(gateway) as caller:
        caller.send(request(chat("handed-on", stream=True))).until(b'"a"')
        received = fakes.arrived()
    eventually(received.left.is_set, 5)
    eventually(lambda: idle(gateway, "handed-on"), 5)
    assert counted(gateway, "handed-on")["cancelled"] == 1


def test_caller_who_leaves_before_a_start_leaves_the_owners_queue(gateway: GatewayProcess) -> None:
    with Caller(gateway) as caller:
        caller.send(request(chat("never")))
        eventually(lambda: gateway.model("never")["waiting"] == 1, 5)
    eventually(lambda: gateway.model("never")["waiting"] == 0, 5)
    gateway.admin("POST", "/models/never/stop")


def test_stream_that_breaks_at_the_server_ends_with_an_event_in_step(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(events(chunk("a"), End.RESET))
    with Caller(gateway) as caller:
        got = ask_on(caller, "handed-on", stream=True)
        assert json.loads(got.body.rpartition(b"data: ")[2])["error"]["code"]
        assert get(caller, "/health").body == b"OK"


def test_body_of_20_mib_reaches_the_server_through_the_owner(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    body = json.dumps({**chat("handed-on"), "padding": "x" * BIG}).encode()
    with Caller(gateway, 60) as caller:
        assert caller.send(request(body)).answer().status == 200
    assert len(fakes.last.body) > BIG
    with Caller(gateway, 60) as caller:
        got = caller.try_send(request(body + b" " * 13 * 2**20)).answer()
    assert got.status == 413


def test_stored_response_is_pinned_whichever_worker_is_asked(
    fakes: FakeServers, gateway: GatewayProcess
) -> None:
    made = {"id": "resp_w", "object": "response", "status": "completed", "output": []}
    fakes.script(answer(made))
    fakes.answer_path("/v1/responses/resp_w", answer(made))
    callers = one_each(gateway)
    for number, (caller, _) in enumerate(callers):
        with caller:
            if not number:
                body = {"model": "hot", "input": "x"}
                assert caller.send(request(body, path="/v1/responses")).answer().status == 200
            got = get(caller, "/v1/responses/resp_w")
            assert (got.status, json.loads(got.body)["id"]) == (200, "resp_w")


def test_admin_api_and_command_answer_through_every_worker(gateway: GatewayProcess) -> None:
    for caller, _ in one_each(gateway):
        with caller:
            assert get(caller, "/admin/models").status == 403
            shown = get(caller, "/admin/models", f"authorization: Bearer {ADMIN_KEY}")
            assert {m["model"] for m in json.loads(shown.body)["models"]} >= {"hot", "started"}
    command = [sys.executable, "-m", "proxy.cli", "models", "--url", gateway.url]
    env = {**os.environ, "LAMPLIGHTER_ADMIN_KEY": ADMIN_KEY}
    told = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "started" in told.stdout
    assert "hot" in told.stdout


def test_slow_reader_of_a_forwarded_stream_is_held_back_in_bounded_memory(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """60 MB wait at the server; both processes on the way hold little of them."""
    fakes.script(events(*[chunk("x" * 100_000)] * 600, DONE))
    with Caller(gateway, narrow=True) as caller:
        caller.send(request(chat("handed-on", stream=True))).until(b"xxxx")
        assert 0 < eventually(lambda: stands_still(fakes.arrived()), 20) < 20_000_000
        tail = b""
        while DONE not in tail:
            tail = tail[-100:] + caller.socket.recv(1 << 18)
    eventually(lambda: fakes.last.answered, 5)


def stands_still(received: Received) -> int:
    """What was sent, once it is the same for a while."""
    found = set()
    for _ in range(10):
        found.add(received.sent)
        time.sleep(0.05)
    return found.pop() if len(found) == 1 else 0


def test_owner_that_is_gone_cuts_forwarded_streams_and_never_ends_them(
    fakes: FakeServers, tmp_path: Path
) -> None:
    fakes.script(events(chunk("a"), End.STALL), events(chunk("b"), gate := Gate(), DONE))
    text = yaml(models(fakes))
    with run_gateway(tmp_path, text, workers=2) as gateway:
        forwarded, direct = Caller(gateway), Caller(gateway)
        forwarded.send(request(chat("handed-on", stream=True))).until(b'"a"')
        direct.send(request(chat("hot", stream=True)))
        fakes.reached(gate)
        gateway.process.kill()
        with forwarded, pytest.raises(Cut):
            forwarded.answer()
        fakes.open(gate)
        with direct:
            assert direct.answer().body.endswith(DONE)  # has its time to end
