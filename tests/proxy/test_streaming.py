"""Streams arrive event by event, byte for byte, and never end as if they were whole when cut."""

import json
from typing import Any

import openai
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes.threaded import FakeServers
from tests.fakes.wire import (
    DONE,
    End,
    Gate,
    Step,
    chunk,
    comment,
    crlf,
    event,
    events,
    finish,
    torn,
    usage_chunk,
)
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, counted, settles

TEXT = "naïve 日本語 🎉"
ANTHROPIC = {"model": "m", "max_tokens": 9, "messages": HELLO, "stream": True}


def relayed(gateway: GatewayProcess, model: str, **more: Any) -> bytes:
    got = gateway.http.post("/v1/chat/completions", json=chat(model, stream=True, **more))
    assert got.status_code == 200
    return got.content


def said(stream: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def test_stream_is_read_by_the_client(client: OpenAI, fakes: FakeServers, one: str) -> None:
    stream = client.chat.completions.create(model=one, messages=HELLO, stream=True)
    assert said(stream) == "hello over there"
    assert stream.response.headers["content-type"] == "text/event-stream"


@pytest.mark.anyio
async def test_stream_is_read_by_the_async_client(gateway: GatewayProcess, one: str) -> None:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(model=one, messages=HELLO, stream=True)
        parts = [c.choices[0].delta.content async for c in stream]
    assert parts == ["hello", " over", " there", None]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chunk("a") + finish() + DONE, id="lf"),
        pytest.param(crlf(chunk("a") + finish() + DONE), id="crlf"),
        pytest.param(comment("x") + chunk(TEXT) + comment("y") + DONE, id="comments"),
        pytest.param(chunk(TEXT) + finish(), id="no-done"),
        pytest.param(b"data: a\ndata:  b\ndata:c\n\n" + DONE, id="multi-line-data"),
        pytest.param(b"event: x\nid: 7\nretry: 9\ndata: {}\n\n" + DONE, id="every-field"),
        pytest.param(chunk("a", logprobs=None, vendor={"x": [1.50]}) + DONE, id="unknown-fields"),
        pytest.param(chunk("a") + b"data: tail without its end", id="open-tail"),
        pytest.param(b"\xef\xbb\xbf" + chunk("a") + DONE, id="byte-order-mark"),
    ],
)
def test_stream_bytes_are_equal_however_torn(
    gateway: GatewayProcess, fakes: FakeServers, one: str, body: bytes
) -> None:
    fakes.script(events(body), events(*torn(body, *range(1, len(body), 7))))
    assert relayed(gateway, one) == body
    assert relayed(gateway, one) == body


def test_stream_torn_within_a_character_reaches_the_client_whole(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    body = chunk(TEXT) + finish() + DONE
    inside = body.index("🎉".encode()) + 2
    fakes.script(events(*torn(body, inside)))
    assert said(client.chat.completions.create(model=one, messages=HELLO, stream=True)) == TEXT


def test_tool_call_deltas_are_byte_equal(
    client: OpenAI, gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    pieces = ['{"city": "Z\\u00', 'fcrich", "why": "', "日", '\\"', '"}']
    deltas = [
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": f}]}
        for f in [{"name": "weather", "arguments": ""}, *({"arguments": p} for p in pieces)]
    ]
    body = b"".join(event({"choices": [{"index": 0, "delta": d}]}) for d in deltas) + DONE
    fakes.script(events(*torn(body, *range(3, len(body), 11))), events(body))
    assert relayed(gateway, one) == body
    stream = client.chat.completions.create(model=one, messages=HELLO, stream=True)
    calls = [c.choices[0].delta.tool_calls for c in stream]
    arguments = "".join(call[0].function.arguments or "" for call in calls if call)
    assert json.loads(arguments) == {"city": "Zürich", "why": '日"'}


def test_event_reaches_the_client_before_the_next_one_is_sent(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    gates = [Gate(), Gate(), Gate()]
    steps: list[Step] = []
    for number, gate in enumerate(gates):
        steps += [chunk(str(number)), gate]
    fakes.script(events(*steps, DONE))
    seen = []
    for part in client.chat.completions.create(model=one, messages=HELLO, stream=True):
        seen.append(part.choices[0].delta.content)
        fakes.open(gates[len(seen) - 1])
    assert seen == ["0", "1", "2"]


# --- usage ---------------------------------------------------------------------------------------


def test_usage_that_was_asked_for_is_one_chunk_before_done(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = relayed(gateway, one, stream_options={"include_usage": True})
    assert body.count(b'"usage"') == 1
    usage, done = body.split(b"\n\n")[-3:-1]
    assert json.loads(usage.removeprefix(b"data: "))["choices"] == []
    assert done + b"\n\n" == DONE


def test_usage_that_was_not_asked_for_is_counted_and_not_seen(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = relayed(gateway, one)
    assert b"usage" not in body
    assert body.endswith(DONE)
    assert fakes.last.json["stream_options"] == {"include_usage": True}
    assert counted(gateway, one, "tokens", "type") == {"input": 3.0, "output": 3.0, "cached": 0.0}


def test_usage_beside_choices_is_never_taken_out(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = chunk("a", usage={"prompt_tokens": 4, "completion_tokens": 1}) + DONE
    fakes.script(events(body))
    assert relayed(gateway, one) == body
    assert counted(gateway, one, "tokens", "type")["input"] == 4.0


def test_usage_chunk_nobody_asked_for_is_taken_out_when_it_comes_with_others(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(chunk("a") + usage_chunk(5, 6) + DONE))
    assert relayed(gateway, one) == chunk("a") + DONE


# --- the end -------------------------------------------------------------------------------------

DIALECTS = {
    "/chat/completions": (chunk("a"), {"stream": True, "messages": HELLO}),
    "/completions": (event({"choices": [{"text": "a"}]}), {"stream": True, "prompt": "x"}),
    "/responses": (
        event({"type": "response.created", "response": {"id": "resp_1"}}, "response.created"),
        {"stream": True, "input": "x"},
    ),
    "/messages": (event({"type": "message_start"}, "message_start"), ANTHROPIC),
}


@pytest.mark.parametrize("end", [End.RESET, End.CLOSE])
@pytest.mark.parametrize("path", DIALECTS)
def test_server_that_dies_mid_stream_gives_an_error_event_in_the_right_dialect(
    gateway: GatewayProcess, fakes: FakeServers, one: str, path: str, end: End
) -> None:
    first, body = DIALECTS[path]
    fakes.script(events(first, 0.05, b'data: {"torn', end))
    got = gateway.http.post(f"/v1{path}", json={**body, "model": one})
    assert got.content.startswith(first)
    rest = got.content[len(first) :]
    name, _, data = rest.removesuffix(b"\n\n").rpartition(b"data: ")
    told = json.loads(data)
    if path == "/responses":
        assert name == b"event: error\n"
        assert (told["type"], told["code"]) == ("error", "response_lost")
    elif path == "/messages":
        assert name == b"event: error\n"
        assert (told["type"], told["error"]["code"]) == ("error", "response_lost")
    else:
        assert name == b""
        assert told["error"]["code"] == "response_lost"
    assert b"[DONE]" not in got.content
    assert b"torn" not in got.content
    assert counted(gateway, one) == {"error": 1.0}


def test_death_mid_stream_raises_in_the_client(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(chunk("a"), 0.05, End.RESET))
    stream = client.chat.completions.create(model=one, messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "response_lost"
    assert len(fakes.posts) == 1  # never tried again after the first byte


def test_death_mid_stream_is_an_error_event_of_the_responses_api(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    first, _ = DIALECTS["/responses"]
    fakes.script(events(first, 0.05, End.RESET))
    stream = client.responses.create(model=one, input="x", stream=True)
    assert [e.type for e in stream] == ["response.created", "error"]


def test_error_event_of_a_server_mid_stream_is_passed_and_nothing_added(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = chunk("a") + event({"error": {"message": "engine died", "code": 500}})
    fakes.script(events(body))
    assert relayed(gateway, one) == body


def test_event_that_was_passed_in_part_is_cut_and_not_followed_by_an_error(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """An error event inside half an event would read as its text."""
    half = b"data: " + b"x" * 200_000
    gate = Gate()
    fakes.script(events(chunk("a"), half, gate, End.RESET))
    got = b""
    request = gateway.http.stream("POST", "/v1/chat/completions", json=chat(one, stream=True))
    with pytest.raises(Exception, match="incomplete|closed"), request as response:  # noqa: PT012
        for data in response.iter_raw():
            got += data
            if len(got) == len(chunk("a") + half):  # a reset throws away what is under way
                fakes.open(gate)
    assert got == chunk("a") + half


def test_done_is_not_doubled(gateway: GatewayProcess, one: str) -> None:
    assert relayed(gateway, one).count(b"[DONE]") == 1


# --- who reads slowly ----------------------------------------------------------------------------


def test_slow_reader_is_waited_for_in_bounded_memory(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    piece = chunk("x" * 100_000)
    fakes.script(events(*[piece] * 600, DONE))  # 60 MB
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    request = gateway.http.stream("POST", "/v1/chat/completions", json=chat(one, stream=True))
    with request as response:
        received = fakes.arrived()
        sent = -1

        def stalled() -> bool:
            nonlocal sent
            was, sent = sent, received.sent
            return was == sent

        eventually(stalled, what="the server is held back")
        assert 0 < received.sent < 40_000_000
        assert process.memory_info().rss - before < 20_000_000
        others = gateway.http.post("/v1/chat/completions", json=chat("fake"))
        assert others.status_code == 200
        response.close()
    eventually(received.left.is_set)
    settles(gateway, one)


def test_stream_is_not_compressed_even_if_the_caller_would_take_it(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    headers = {"accept-encoding": "gzip, br"}
    got = gateway.http.post("/v1/chat/completions", json=chat(one, stream=True), headers=headers)
    assert "content-encoding" not in got.headers
    assert fakes.last.header("accept-encoding") == "identity"
