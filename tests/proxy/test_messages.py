"""Anthropic's Messages pass through, and what the gateway itself says there has their shape."""

import json

import pytest

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End, answer, event, events
from tests.gateway import GatewayProcess
from tests.proxy.scenes import HELLO, counted, model, yaml

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Paris."}],
    "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 4},
}
STREAM = [
    event({"type": "message_start", "message": {"usage": {"input_tokens": 3}}}, "message_start"),
    event({"type": "ping"}, "ping"),
    event({"type": "content_block_delta", "delta": {"text": "Paris"}}, "content_block_delta"),
    event({"type": "message_delta", "usage": {"output_tokens": 2}}, "message_delta"),
    event({"type": "message_stop"}, "message_stop"),
]


def ask(name: str, *, stream: bool = False) -> dict[str, object]:
    return {"model": name, "max_tokens": 9, "messages": HELLO, "stream": stream}


def test_message_passes_unchanged_and_is_counted(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(answer(MESSAGE))
    sent = {"anthropic-version": "2023-06-01", "x-api-key": "caller", "anthropic-beta": "b"}
    got = gateway.http.post("/v1/messages", json=ask(one), headers=sent)
    assert got.json() == MESSAGE
    assert fakes.last.json == ask("fake")  # no OpenAI option was added
    assert fakes.last.header("anthropic-version") == "2023-06-01"
    assert fakes.last.header("x-api-key") is None
    assert counted(gateway, one, "tokens", "type") == {"input": 7.0, "output": 2.0, "cached": 4.0}


def test_stream_of_messages_passes_byte_for_byte_and_is_counted(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(*STREAM))
    got = gateway.http.post("/v1/messages", json=ask(one, stream=True))
    assert got.content == b"".join(STREAM)
    assert counted(gateway, one, "tokens", "type")["output"] == 2.0


def test_key_of_the_server_is_sent_as_messages_want_it(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    keyed = [{"url": fakes.urls[0], "key": "sk-server"}]
    gateway = start_gateway(yaml({"keyed": model(keyed)}))
    fakes.script(answer(MESSAGE))
    gateway.http.post("/v1/messages", json=ask("keyed"), headers={"x-api-key": "caller"})
    assert fakes.last.header("x-api-key") == "sk-server"
    assert fakes.last.header("authorization") == "Bearer sk-server"


def test_tokens_are_counted_by_the_server(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(answer({"input_tokens": 12}))
    got = gateway.http.post("/v1/messages/count_tokens", json=ask(one))
    assert got.json() == {"input_tokens": 12}
    assert fakes.last.target == "/v1/messages/count_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_error_of_the_gateway_has_their_shape(
    gateway: GatewayProcess, fakes: FakeServers, one: str, stream: bool
) -> None:
    fakes.script([End.RESET])
    got = gateway.http.post("/v1/messages", json=ask(one, stream=stream))
    body = got.json()
    assert (got.status_code, body["type"]) == (502, "error")
    assert set(body) == {"type", "error", "request_id"}
    assert body["request_id"] == got.headers["x-request-id"]
    assert body["error"]["type"] == "server_error"


def test_event_that_tells_of_a_broken_stream_has_their_shape(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(*STREAM[:3], 0.05, End.RESET))
    got = gateway.http.post("/v1/messages", json=ask(one, stream=True))
    last = got.content.removeprefix(b"".join(STREAM[:3]))
    assert last.startswith(b"event: error\ndata: ")
    told = json.loads(last.removeprefix(b"event: error\ndata: "))
    assert (told["type"], told["error"]["code"]) == ("error", "response_lost")
    assert b"message_stop" not in got.content
