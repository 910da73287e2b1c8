"""What the gateway does not understand passes unchanged, in both directions."""

import gzip
import json
import zlib
from typing import Any

import brotli
import psutil
import pytest
from openai import OpenAI

from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, answer, chunk, events
from tests.gateway import GatewayProcess
from tests.proxy.scenes import HELLO, chat

JSON = {"content-type": "application/json"}
# Odd but right: order, spacing, number spelling, unknown fields, escapes, a second "model" within.
ODD = (
    b' {"z_unknown": {"model":"MODEL", "b":[1.0, 1e5,-0, 12345678901234567890]},\n'
    b'  "model" : "MODEL", "messages":[{"role":"user","content":"\\u00e9 \xc3\xa9 \\"model\\""}],'
    b'"guided_json":{"type":"object"},"temperature":0.70,"stream":false } \n'
)
SPLICED = ODD.replace(b'"z_unknown": {"model":"MODEL",', b'"z_unknown": {"mod":"MODEL",')


def test_body_is_byte_equal_when_the_name_is_the_same(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    body = ODD.replace(b"MODEL", b"fake")
    fakes.script(answer({"ok": 1}))
    assert gateway.http.post("/v1/embeddings", content=body, headers=JSON).status_code == 200
    assert fakes.last.body == body
    assert fakes.last.header("content-type") == "application/json"


def test_body_is_byte_equal_apart_from_the_model(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    gateway.http.post(
        "/v1/embeddings", content=SPLICED.replace(b"MODEL", one.encode()), headers=JSON
    )
    expected = SPLICED.replace(b'"model" : "MODEL"', b'"model" : "fake"')
    assert fakes.last.body == expected.replace(b"MODEL", one.encode())


def test_body_with_two_models_keeps_the_inner_one(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    gateway.http.post("/v1/embeddings", content=ODD.replace(b"MODEL", one.encode()), headers=JSON)
    sent = fakes.last.json
    assert (sent["model"], sent["z_unknown"]["model"]) == ("fake", one)
    assert b"[1.0, 1e5,-0, 12345678901234567890]" in fakes.last.body
    assert b'"temperature":0.70' in fakes.last.body


def test_body_of_a_stream_gains_only_the_usage_option(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    body = b'{"model":"fake","n":1.0,"stream":true,"messages":[{"content":"hi"}]}'
    gateway.http.post("/v1/chat/completions", content=body, headers=JSON)
    assert fakes.last.body == b'{"stream_options":{"include_usage":true},' + body[1:]


def test_stream_options_keep_their_other_fields(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    options = {"include_usage": False, "continuous_usage_stats": True}
    gateway.http.post(
        "/v1/chat/completions", json=chat("fake", stream=True, stream_options=options)
    )
    assert fakes.last.json["stream_options"] == {**options, "include_usage": True}


def test_answer_is_byte_equal(gateway: GatewayProcess, fakes: FakeServers, one: str) -> None:
    body = b' {"model":"fake" ,"x":[1.0,1E5], "reasoning_content":"\\u00e9\xc3\xa9"}\n'
    fakes.script(answer(body, headers=[("x-custom", "1")]))
    got = gateway.http.post("/v1/chat/completions", json=chat(one))
    assert got.content == body  # the model is told as its server calls it
    assert got.headers["x-lamplighter-served-model"] == "fake"
    assert got.headers["content-length"] == str(len(body))


def test_every_field_of_a_large_request_survives(client: OpenAI, fakes: FakeServers) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    asked: dict[str, Any] = {
        "model": "fake",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}, part, audio]},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "n": 2,
        "seed": 7,
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "top_logprobs": 5,
        "max_completion_tokens": 5,
        "reasoning_effort": "low",
        "stop": ["a", "b"],
        "metadata": {"k": "v"},
        "service_tier": "flex",
    }
    more = {"top_k": 3, "guided_choice": ["a"], "priority": -1, "cache_salt": "x"}
    client.chat.completions.create(**asked, extra_body=more)
    assert fakes.last.json == {**asked, **more}


def test_unknown_fields_of_an_answer_reach_the_client(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    delta = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm", "reasoning": "m"}}]}
    fakes.script(
        answer({"choices": [{"message": {"content": "a", "reasoning": "hm"}}], "kv": {"x": 1}}),
        events(b"data: " + json.dumps(delta).encode() + b"\n\n", DONE),
    )
    plain = client.chat.completions.create(model=one, messages=HELLO)
    assert plain.choices[0].message.model_extra["reasoning"] == "hm"  # type: ignore[index]
    assert plain.model_extra == {"kv": {"x": 1}}
    [part] = client.chat.completions.create(model=one, messages=HELLO, stream=True)
    assert part.choices[0].delta.model_extra["reasoning_content"] == "hm"  # type: ignore[index]


def test_tool_call_of_a_plain_answer_reaches_the_client(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    function = {"name": "weather", "arguments": '{"city": "Zürich"}'}
    call = {"id": "c1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    fakes.script(answer({"id": "x", "object": "chat.completion", "choices": [choice]}))
    [got] = client.chat.completions.create(model=one, messages=HELLO).choices
    assert got.message.tool_calls is not None
    assert got.message.tool_calls[0].to_dict() == call


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/rerank", "/v1/rerank"),
        ("/v1/score", "/v1/score"),
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/messages?beta=true", "/v1/messages?beta=true"),
        ("/v1/audio/speech", "/v1/audio/speech"),
        ("/v1/fim/completions", "/v1/fim/completions"),
        ("/v1/chat/completions/batch", "/v1/chat/completions/batch"),
        ("/v1/something/new?a=%2F&b", "/v1/something/new?a=%2F&b"),
        ("/tokenize", "/tokenize"),
        ("/v1/tokenize", "/tokenize"),
        ("/detokenize", "/detokenize"),
    ],
)
def test_path_with_a_model_in_its_body_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str, path: str, target: str
) -> None:
    fakes.script(answer({"ok": 1}))
    got = gateway.http.post(path, json={"model": one, "input": "x"})
    assert (got.status_code, got.json()) == (200, {"ok": 1})
    assert (fakes.last.target, fakes.last.json["model"]) == (target, "fake")


def test_embeddings_by_the_client(client: OpenAI, fakes: FakeServers, one: str) -> None:
    [got] = client.embeddings.create(model=one, input=["a"], encoding_format="float").data
    assert got.embedding == [0.25, -0.5]
    assert fakes.last.json["input"] == ["a"]


def test_binary_answer_is_passed(client: OpenAI, fakes: FakeServers, one: str) -> None:
    sound = bytes(range(256)) * 10_000  # larger than what is held back
    fakes.script(answer(sound, content_type="audio/wav"))
    got = client.audio.speech.create(model=one, input="x", voice="v")
    assert got.content == sound


# --- forms ---------------------------------------------------------------------------------------


def test_audio_upload_passes_with_only_the_model_changed(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    sound = bytes(range(256)) * 4000
    fakes.script(answer({"text": "said"}))
    got = client.audio.transcriptions.create(
        model=one, file=("a.wav", sound, "audio/wav"), language="de"
    )
    assert got.text == "said"
    assert fakes.last.target == "/v1/audio/transcriptions"
    assert sound in fakes.last.body
    assert b'name="model"\r\n\r\nfake\r\n' in fakes.last.body
    assert b'name="language"\r\n\r\nde\r\n' in fakes.last.body
    kind = fakes.last.header("content-type")
    assert kind is not None
    boundary = kind.partition("boundary=")[2].encode()
    assert fakes.last.body.count(b"--" + boundary) == 4


def test_audio_upload_may_be_streamed_back(client: OpenAI, fakes: FakeServers, one: str) -> None:
    delta = b'data: {"type": "transcript.text.delta", "delta": "sa"}\n\n'
    fakes.script(events(delta, DONE))
    stream = client.audio.transcriptions.create(model=one, file=("a.wav", b"RIFF"), stream=True)
    assert [part.type for part in stream] == ["transcript.text.delta"]


@pytest.mark.parametrize(
    "body",
    [b"", b"--b\r\n", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'],
)
def test_form_without_a_model_is_400(
    gateway: GatewayProcess, fakes: FakeServers, body: bytes
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    got = gateway.http.post("/v1/audio/transcriptions", content=body, headers=headers)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "model")
    assert fakes.posts == []


# --- sizes and encodings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("deflate", zlib.compress)],
)
def test_compressed_body_is_understood_and_sent_on_plain(
    gateway: GatewayProcess, fakes: FakeServers, one: str, encoding: str, pack: Any
) -> None:
    body = json.dumps(chat(one, pad="x" * 300_000)).encode()
    headers = {**JSON, "content-encoding": encoding}
    got = gateway.http.post("/v1/chat/completions", content=pack(body), headers=headers)
    assert got.status_code == 200
    assert fakes.last.body == body.replace(one.encode(), b"fake")
    assert fakes.last.header("content-encoding") is None


def test_gzipped_answer_is_passed_to_who_takes_it(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = b'{"usage":{"prompt_tokens":7,"completion_tokens":1}}'
    fakes.script(answer(gzip.compress(body), headers=[("content-encoding", "gzip")]))
    got = gateway.http.post(
        "/v1/chat/completions", json=chat(one), headers={"accept-encoding": "br, gzip"}
    )
    assert got.content == body
    assert got.headers["content-encoding"] == "gzip"
    assert fakes.last.header("accept-encoding") == "gzip"


def test_server_is_not_offered_what_the_caller_does_not_take(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    for taken in ("identity", "br"):
        gateway.http.post(
            "/v1/chat/completions", json=chat(one), headers={"accept-encoding": taken}
        )
        assert fakes.last.header("accept-encoding") == "identity"


def test_bodies_of_the_largest_size_pass_in_bounded_memory(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    process = psutil.Process(gateway.process.pid)
    body = b'{"model":"fake","input":"' + b"x" * (32 * 1024 * 1024 - 100) + b'"}'
    for _ in range(5):
        fakes.reset()
        fakes.script(answer({"ok": 1}))
        assert gateway.http.post("/v1/embeddings", content=body, headers=JSON).status_code == 200
        assert fakes.last.body == body
        assert process.memory_info().rss < 250_000_000
    fakes.reset()


def test_chunked_request_is_sent_on_with_its_length(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    body = json.dumps(chat("fake")).encode()
    got = gateway.http.post(
        "/v1/chat/completions", content=iter([body[:9], body[9:]]), headers=JSON
    )
    assert got.status_code == 200
    assert fakes.last.header("content-length") == str(len(body))
    assert fakes.last.header("transfer-encoding") is None


def test_answer_without_a_body_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script([b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"])
    got = gateway.http.post("/v1/embeddings", json={"model": one})
    assert (got.status_code, got.content, got.headers["x-a"]) == (204, b"", "1")


def test_plain_answer_to_a_stream_request_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(answer({"ok": 1}))
    got = gateway.http.post("/v1/chat/completions", json=chat(one, stream=True))
    assert (got.json(), got.headers["content-type"]) == ({"ok": 1}, "application/json")


def test_stream_that_nobody_asked_for_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(chunk("a"), DONE))
    got = gateway.http.post("/v1/chat/completions", json=chat(one))
    assert got.content == chunk("a") + DONE
