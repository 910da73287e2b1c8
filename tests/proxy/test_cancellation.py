"""A caller who leaves, at whatever stage, is gone from the queue and from the model server."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from openai import AsyncOpenAI

from tests.conftest import StartGateway
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, answer, chunk, comment, events
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, counted, model, settles, yaml

LEFT_WITHIN_S = 2.0  # the promise is one second; the rest is for a busy machine


@pytest.fixture(scope="module")
def narrow(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """`narrow` takes one request at a time; `starting` never gets ready."""
    single = [{"url": fake_servers.urls[0], "max_concurrency": 1}]
    never = {"command": fake_command("--never-ready"), "stop_within": "1s"}
    starting = {"served_as": "fake", "cold": never}
    keepalive = {"grace": "100ms", "every": "100ms"}
    models = {
        "narrow": model(single),
        "starting": {**starting, "keepalive": keepalive},
        "starting-quietly": {**starting, "keepalive": {"grace": "1h"}},
    }
    return start_gateway(yaml(models))


@contextmanager
def caller(gateway: GatewayProcess, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A caller who has asked, and leaves at the end of the block."""
    payload = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
        connection.sendall(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)
        yield connection


def was_cancelled(gateway: GatewayProcess, name: str, before: float = 0.0) -> None:
    """Counted as the caller's doing, and never against the server."""
    settles(gateway, name)
    eventually(lambda: counted(gateway, name).get("cancelled") == before + 1, 5, "cancelled")
    assert "error" not in counted(gateway, name)
    assert all(endpoint["healthy"] for endpoint in gateway.model(name)["endpoints"])


@pytest.mark.parametrize("stream", [False, True])
def test_caller_who_leaves_before_the_head_of_the_answer(
    gateway: GatewayProcess, fakes: FakeServers, one: str, stream: bool
) -> None:
    fakes.script([End.STALL])
    with caller(gateway, chat(one, stream=stream)):
        received = fakes.arrived()
    eventually(received.left.is_set, LEFT_WITHIN_S, "the server is left")
    was_cancelled(gateway, one)


def test_caller_who_leaves_in_the_middle_of_a_stream(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(chunk("a"), End.STALL))
    with caller(gateway, chat(one, stream=True)) as connection:
        while b'"a"' not in connection.recv(65536):
            pass
        received = fakes.arrived()
    eventually(received.left.is_set, LEFT_WITHIN_S, "the server is left")
    was_cancelled(gateway, one)


def test_caller_who_leaves_between_the_head_and_the_first_event(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    gate = Gate()
    fakes.script(events(gate, End.STALL))
    with caller(gateway, chat(one, stream=True)):
        fakes.reached(gate)
        fakes.open(gate)
    eventually(fakes.last.left.is_set, LEFT_WITHIN_S, "the server is left")
    was_cancelled(gateway, one)


def test_caller_who_leaves_in_the_middle_of_a_plain_answer(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    whole = answer({"text": "x" * 100})[0]
    assert isinstance(whole, bytes)
    gate = Gate()
    fakes.script([whole[:-50], gate, whole[-50:]])
    with caller(gateway, chat(one)):
        fakes.reached(gate)
    eventually(fakes.last.left.is_set, LEFT_WITHIN_S, "the server is left")
    was_cancelled(gateway, one)


def test_caller_who_leaves_while_a_large_answer_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script([*answer(b"x" * 40_000_000, content_type="audio/wav")])
    with caller(gateway, chat(one)) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    settles(gateway, one)
    was_cancelled(gateway, one)


@pytest.mark.parametrize("stream", [False, True])
def test_caller_who_leaves_the_queue(
    narrow: GatewayProcess, fakes: FakeServers, stream: bool
) -> None:
    before = counted(narrow, "narrow").get("cancelled", 0.0)
    gate = Gate()
    fakes.script([gate, *answer({"ok": 1})])
    with caller(narrow, chat("narrow")) as first:
        fakes.reached(gate)
        with caller(narrow, chat("narrow", stream=stream)):
            eventually(lambda: narrow.model("narrow")["waiting"] == 1)
        eventually(lambda: narrow.model("narrow")["waiting"] == 0, LEFT_WITHIN_S)
        assert narrow.model("narrow")["in_flight"] == 1
        fakes.open(gate)
        assert b"200 OK" in first.recv(65536)
    was_cancelled(narrow, "narrow", before)
    assert len(fakes.posts) == 1


def test_place_of_a_caller_who_left_goes_to_the_next(
    narrow: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script([End.STALL], None)
    with caller(narrow, chat("narrow")) as first:
        fakes.arrived()
        with caller(narrow, chat("narrow")) as second:
            eventually(lambda: narrow.model("narrow")["waiting"] == 1)
            first.close()
            assert b"200 OK" in second.recv(65536)
    settles(narrow, "narrow")


@pytest.mark.parametrize(
    ("name", "stream"),
    [("starting", False), ("starting", True), ("starting-quietly", True)],
)
def test_caller_who_leaves_while_a_model_starts(
    narrow: GatewayProcess, name: str, stream: bool
) -> None:
    before = counted(narrow, name).get("cancelled", 0.0)
    with caller(narrow, chat(name, stream=stream)) as connection:
        eventually(lambda: narrow.model(name)["waiting"] == 1)
        if stream and name == "starting":
            assert b": starting model=starting" in connection.recv(65536) + connection.recv(65536)
    eventually(lambda: narrow.model(name)["waiting"] == 0, LEFT_WITHIN_S)
    was_cancelled(narrow, name, before)
    assert narrow.admin("POST", f"/models/{name}/stop").status_code == 202


def test_caller_who_leaves_with_half_a_body(gateway: GatewayProcess, fakes: FakeServers) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-request-id: half\r\n"
        connection.sendall(head + b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{")
    eventually(lambda: "half other model=- " in gateway.log, 5)
    assert "half other model=- endpoint=- status=0" in gateway.log
    assert fakes.posts == []


@pytest.mark.anyio
async def test_client_that_gives_up_cancels_the_server(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """As a user does it: a task that is cancelled, and a stream that is closed early."""
    fakes.script([End.STALL], events(chunk("a"), comment(), End.STALL))
    async with AsyncOpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        with anyio.move_on_after(0.3):
            await client.chat.completions.create(model=one, messages=HELLO)
        stream = await client.chat.completions.create(model=one, messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()
    for number in (1, 2):
        received = await anyio.to_thread.run_sync(fakes.arrived, number)
        await anyio.to_thread.run_sync(eventually, received.left.is_set, LEFT_WITHIN_S)
    await anyio.to_thread.run_sync(settles, gateway, one)
    assert counted(gateway, one) == {"cancelled": 2.0}


def test_many_who_leave_leave_nothing_behind(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(*[[End.STALL]] * 200)
    for number in range(20):
        with caller(gateway, chat(one)), caller(gateway, chat(one, stream=True)):
            fakes.arrived(2 * number + 2)
    eventually(lambda: all(r.left.is_set() for r in fakes.posts), 5)
    was_cancelled(gateway, one, 39.0)
    fakes.reset()
    fakes.script(events(chunk("a"), DONE))
    assert gateway.http.post("/v1/chat/completions", json=chat(one)).status_code == 200


def test_caller_who_leaves_after_the_last_event_had_everything(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """The SDK closes when it has read [DONE], often before the server's last byte."""
    gate = Gate()
    fakes.script(events(chunk("a"), DONE, gate))
    with caller(gateway, chat(one, stream=True)) as connection:
        received = b""
        while b"[DONE]" not in received:
            received += connection.recv(65536)
    eventually(lambda: counted(gateway, one) == {"ok": 1.0}, 5, "it counts as answered")
    fakes.open(gate)
