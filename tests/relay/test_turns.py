"""Several requests on one connection: back-pressure, time and framing between their answers."""

import json
import socket
import time
from contextlib import suppress

import psutil

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import Gate, answer, head
from tests.gateway import GatewayProcess
from tests.proxy.scenes import chat, model, raw, yaml
from tests.relay.callers import Caller, ask, request
from tests.relay.servers import raw_server, read_head

LARGE = b"x" * 900_000


def test_caller_who_pipelines_and_never_reads_fills_no_memory(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"fake": model(fakes.urls[:1])}))
    fakes.script(*[answer({"text": LARGE.decode()})] * 2000)
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    asked = request(chat("fake"))
    with Caller(gateway, 2) as caller:
        until_s = time.monotonic() + 3
        with suppress(TimeoutError):
            while time.monotonic() < until_s:
                caller.send(asked)
        time.sleep(1)
        assert process.memory_info().rss - before < 40 * len(LARGE)
    assert len(fakes.posts) < 40
    assert ask(gateway, request(chat("fake"))).status == 200


def _two_framings(connection: socket.socket) -> None:
    """Says five bytes and sends more, in chunks: the chunks count."""
    evil = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"
    while True:
        start = read_head(connection)
        length = int(start.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        while length:
            length -= len(connection.recv(length))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 5\r\n"
            b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )
        time.sleep(0.1)  # so that the answer begins before it is whole
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(evil), evil))


def test_server_with_two_framings_puts_nothing_before_the_next_answer(
    start_gateway: StartGateway,
) -> None:
    with raw_server(_two_framings) as url:
        gateway = start_gateway(yaml({"fake": model([url])}))
        with Caller(gateway) as caller:
            got = caller.send(request(chat("fake"), path="/v1/audio/speech")).answer()
            assert got.header("content-length") is None
            assert got.body.startswith(b"hello")
            health = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
            assert caller.send(health).answer().body == b"OK"


def test_empty_stream_of_a_status_without_a_body_is_no_body(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script([head(204, [("content-type", "text/event-stream")])])
    with Caller(gateway) as caller:
        got = caller.send(request(chat(one))).answer()
        assert got.status == 204
        assert caller.send(request(chat(one))).answer().status == 200


def test_time_of_a_body_does_not_run_while_an_earlier_answer_does(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"fake": model(fakes.urls[:1])}, server={"body_timeout": "300ms"}))
    gate = Gate()
    fakes.script([gate, *answer({"first": 1})])
    body = json.dumps(chat("fake")).encode()
    with Caller(gateway) as caller:
        caller.send(request(body))
        fakes.reached(gate)
        caller.send(request(body) + request(body)[:-5])
        time.sleep(1)
        fakes.open(gate)
        assert json.loads(caller.answer().body) == {"first": 1}
        assert caller.answer().status == 200
        assert caller.send(body[-5:]).answer().status == 200


def test_hundreds_of_offers_to_upgrade_in_one_write_are_all_passed_over(
    gateway: GatewayProcess,
) -> None:
    offer = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    end = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    said = raw(gateway, offer * 400 + end)
    assert said.count(b"HTTP/1.1 200 OK") == 401


def test_head_over_its_limit_is_refused_behind_another_request(gateway: GatewayProcess) -> None:
    first = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    large = b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: " + b"y" * 120_000 + b"\r\n\r\n"
    said = raw(gateway, first + large)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 431 " in said


def test_header_named_beside_an_offer_to_upgrade_stays_here(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    headers = ["connection: upgrade, x-hop", "connection: x-other", "upgrade: h2c"]
    asked = request(chat("fake"), *headers, "x-hop: 1", "x-other: 2")
    assert ask(gateway, asked).status == 200
    assert fakes.last.header("x-hop") is None
    assert fakes.last.header("x-other") is None


def test_call_by_response_id_goes_to_no_other_server(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"fake": model(fakes.urls)}))
    fakes.script(answer({"id": "resp_abc"}))
    made = {"model": "fake", "input": "hi"}
    assert gateway.http.post("/v1/responses", json=made).status_code == 200
    down = answer({"error": {"message": "down"}}, 503)
    fakes.answer_path("/v1/responses/resp_abc", down)
    before = len(fakes.requests)
    assert gateway.http.delete("/v1/responses/resp_abc").status_code == 503
    asked = [r for r in fakes.requests[before:] if r.method == "DELETE"]
    assert len(asked) == 1
