"""A stream that waits is kept awake by comments that every client reads through."""

import json
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.fixtures import JsClient
from tests.conftest import StartGateway
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, chunk, error, events
from tests.gateway import GatewayProcess
from tests.proxy.scenes import HELLO, chat, model, yaml

READY_AFTER = ("--ready-after", "0.8")
OFTEN = {"grace": "50ms", "every": "100ms"}


@pytest.fixture(scope="module")
def waking(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """Models that are off and need a second, each for one test; and a server that is slow."""
    models = {
        f"cold-{n}": {
            "served_as": "fake",
            "keepalive": OFTEN,
            "cold": {"command": fake_command(*READY_AFTER)},
        }
        for n in range(6)
    }
    crash = fake_command("--log", "no memory", "--listen-after", "0.5", "--crash-at-load", "7")
    models["crashing"] = {"keepalive": OFTEN, "cold": {"command": crash, "start_within": "3s"}}
    models["slow"] = model(fake_servers.urls[:1], keepalive=OFTEN)
    models["patient"] = model(fake_servers.urls[:1], keepalive={"grace": "1h"})
    return start_gateway(yaml(models))


@pytest.fixture(scope="module")
def off() -> Iterator[str]:
    return iter(f"cold-{n}" for n in range(6))


def test_comments_come_while_a_model_starts_and_never_after(
    waking: GatewayProcess, off: Iterator[str]
) -> None:
    name = next(off)
    got = waking.http.post("/v1/chat/completions", json=chat(name, stream=True))
    assert got.status_code == 200
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (got.headers["cache-control"], got.headers["x-accel-buffering"]) == ("no-cache", "no")
    events_ = got.text.removesuffix("\n\n").split("\n\n")
    comments = [e for e in events_ if e.startswith(":")]
    assert len(comments) >= 3
    assert all(f"model={name}" in c and "\n" not in c for c in comments)
    assert any(c.startswith(": starting ") and "stage=" in c and "eta=" in c for c in comments)
    assert events_[: len(comments)] == comments
    assert all(e.startswith("data: ") for e in events_[len(comments) :])
    assert events_[-1] == "data: [DONE]"


def test_python_client_reads_through_comments(waking: GatewayProcess, off: Iterator[str]) -> None:
    with OpenAI(base_url=waking.base_url, api_key="k", max_retries=0) as client:
        stream = client.chat.completions.create(model=next(off), messages=HELLO, stream=True)
        assert [part.choices[0].delta.content for part in stream] == [
            "hello",
            " over",
            " there",
            None,
        ]


@pytest.mark.anyio
async def test_async_python_client_reads_through_comments(
    waking: GatewayProcess, off: Iterator[str]
) -> None:
    async with AsyncOpenAI(base_url=waking.base_url, api_key="k", max_retries=0) as client:
        create = client.chat.completions.create
        stream = await create(model=next(off), messages=HELLO, stream=True)
        text = "".join([part.choices[0].delta.content or "" async for part in stream])
    assert text == "hello over there"


def test_javascript_client_reads_through_comments(
    waking: GatewayProcess, off: Iterator[str], js_client: JsClient
) -> None:
    heard = js_client.stream(waking.base_url, next(off), "hello over there")
    assert (heard.error, heard.text, heard.finish) == (None, "hello over there", "stop")


def test_plain_call_is_held_until_the_model_is_ready(
    waking: GatewayProcess, off: Iterator[str]
) -> None:
    got = waking.http.post("/v1/chat/completions", json=chat(next(off)))
    assert got.status_code == 200
    assert got.headers["x-lamplighter-placement"] == "cold"
    assert got.headers["x-lamplighter-cold-start"] == "true"
    assert int(got.headers["x-lamplighter-wait-ms"]) >= 800


def test_failed_start_after_comments_is_an_error_event(waking: GatewayProcess) -> None:
    with OpenAI(base_url=waking.base_url, api_key="k", max_retries=0) as client:
        stream = client.chat.completions.create(model="crashing", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "model_unavailable"
    assert "no memory" in caught.value.message


def test_comments_come_while_a_server_is_silent(waking: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([0.5, *events(chunk("a"), DONE)])
    got = waking.http.post("/v1/chat/completions", json=chat("slow", stream=True))
    comments, _, rest = got.content.partition(b"data: ")
    assert comments.count(b": waiting model=slow\n\n") >= 3
    assert b"data: " + rest == chunk("a") + DONE


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
def test_error_of_a_server_after_comments_keeps_its_words(
    waking: GatewayProcess, fakes: FakeServers, path: str
) -> None:
    fakes.script([0.3, *error(400, "too many tokens", type="bad", code="context_length_exceeded")])
    got = waking.http.post(f"/v1{path}", json=chat("slow", stream=True))
    told = json.loads(got.content.rpartition(b"data: ")[2])
    told = told if path == "/responses" else told["error"]
    assert (told["message"], told["code"]) == ("too many tokens", "context_length_exceeded")
    assert (b"event: error\n" in got.content) == (path != "/chat/completions")
    assert b"[DONE]" not in got.content


def test_answer_without_a_stream_after_comments_is_an_error_event(
    waking: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script([0.3, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"])
    got = waking.http.post("/v1/chat/completions", json=chat("slow", stream=True))
    told = json.loads(got.content.rpartition(b"data: ")[2])["error"]
    assert told["code"] == "upstream_error"


def test_status_is_true_within_the_grace(waking: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([0.3, *error(400, "too many tokens")], [0.2, *events(chunk("a"), DONE)])
    got = waking.http.post("/v1/chat/completions", json=chat("patient", stream=True))
    assert (got.status_code, got.json()["error"]["message"]) == (400, "too many tokens")
    got = waking.http.post("/v1/chat/completions", json=chat("patient", stream=True))
    assert got.content == chunk("a") + DONE
    assert got.headers["x-lamplighter-model"] == "patient"


# --- the JavaScript client otherwise -------------------------------------------------------------


def test_javascript_client_reads_a_stream_and_its_request_id(
    gateway: GatewayProcess, fakes: FakeServers, one: str, js_client: JsClient
) -> None:
    heard = js_client.stream(gateway.base_url, one, "one two", headers={"x-request-id": "js-1"})
    assert (heard.text, heard.error) == ("one two", None)
    assert heard.response is not None
    assert heard.response["requestId"] == "js-1"


def test_javascript_client_sees_a_stream_that_was_cut(
    gateway: GatewayProcess, fakes: FakeServers, one: str, js_client: JsClient
) -> None:
    fakes.script(events(chunk("a"), 0.1, End.RESET))
    heard = js_client.stream(gateway.base_url, one, "x")
    assert len(heard.chunks) == 1
    assert heard.error is not None
    assert heard.error["code"] == "response_lost"


def test_javascript_client_sees_an_unknown_model(
    gateway: GatewayProcess, js_client: JsClient
) -> None:
    heard = js_client.stream(gateway.base_url, "nope", "x")
    assert heard.error is not None
    assert (heard.error["class"], heard.error["code"]) == ("NotFoundError", "model_not_found")
    assert heard.error["requestId"]
