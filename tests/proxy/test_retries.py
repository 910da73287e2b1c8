"""Another server takes over before the caller has had a byte, and never after that."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.engines.fixtures import free_port
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import (
    DONE,
    End,
    Gate,
    Script,
    answer,
    chunk,
    comment,
    error,
    error_event,
    event,
    events,
)
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, counted, model, yaml

FAILURES: dict[str, Script] = {
    "500": error(500),
    "502": error(502),
    "503": error(503),
    "reset": [End.RESET],
    "closed": [End.CLOSE],
    "head-cut": [b"HTTP/1.1 200 OK\r\ncontent-ty", End.RESET],
    "no-http": [b"SSH-2.0-OpenSSH_9.9\r\n", End.CLOSE],
}
ON_PLAIN: dict[str, Script] = {
    "body-cut": [b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"a":', End.CLOSE],
    "chunk-cut": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello", End.RESET],
}
ON_STREAMS: dict[str, Script] = {
    "error-first": events(error_event("engine died")),
    "error-first-named": events(event({"error": {"message": "x"}}, "error"), DONE),
    "error-first-spaced": events(b'data: { "error" : {"message": "x"}}\n\n'),
    "empty": events(End.RESET),
    "torn-first": events(b'data: {"id', End.RESET),
}


def answered(client: OpenAI, name: str, *, stream: bool) -> tuple[str | None, str]:
    """What the caller reads, and the header that tells the number of attempts."""
    if not stream:
        plain = client.chat.completions.with_raw_response.create(model=name, messages=HELLO)
        return plain.parse().choices[0].message.content, plain.headers["x-lamplighter-attempts"]
    parts = client.chat.completions.create(model=name, messages=HELLO, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    return text, parts.response.headers["x-lamplighter-attempts"]


@pytest.mark.parametrize("failure", [*FAILURES, *ON_PLAIN])
def test_plain_answer_that_fails_comes_from_the_other_server(
    client: OpenAI, fakes: FakeServers, two: str, failure: str
) -> None:
    fakes.script({**FAILURES, **ON_PLAIN}[failure])
    assert answered(client, two, stream=False) == ("hello over there", "2")
    first, second = fakes.posts
    assert first.header("host") != second.header("host")
    assert first.body == second.body


@pytest.mark.parametrize("failure", [*FAILURES, *ON_STREAMS])
def test_stream_that_fails_before_its_first_event_comes_from_the_other_server(
    client: OpenAI, fakes: FakeServers, two: str, failure: str
) -> None:
    fakes.script({**FAILURES, **ON_STREAMS}[failure])
    assert answered(client, two, stream=True) == ("hello over there", "2")
    assert len(fakes.posts) == 2


def test_server_that_refuses_connections_is_passed_over(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    gateway = start_gateway(yaml({"half": model([dead, fakes.urls[0]])}))
    for _ in range(4):
        assert gateway.http.post("/v1/chat/completions", json=chat("half")).status_code == 200
    assert [e["healthy"] for e in gateway.model("half")["endpoints"]] == [False, True]
    assert counted(gateway, "half") == {"ok": 4.0}


def test_rate_limited_server_is_passed_over(client: OpenAI, fakes: FakeServers, two: str) -> None:
    fakes.script(error(429, headers=[("retry-after", "5")]))
    assert answered(client, two, stream=False) == ("hello over there", "2")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_caller_error_is_not_tried_again(
    client: OpenAI, fakes: FakeServers, two: str, status: int
) -> None:
    fakes.script(error(status))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=two, messages=HELLO)
    assert caught.value.status_code == status
    assert len(fakes.posts) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_last_answer_is_relayed_when_every_server_fails(
    client: OpenAI, fakes: FakeServers, two: str, status: int
) -> None:
    fakes.script(error(status, "first"), error(status, "second"))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=two, messages=HELLO)
    assert (caught.value.status_code, caught.value.body["message"]) == (status, "second")  # type: ignore[index]
    assert len(fakes.posts) == 2  # each server once


def test_failure_of_the_only_server_is_502(client: OpenAI, fakes: FakeServers, one: str) -> None:
    fakes.script([End.RESET])
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=one, messages=HELLO)
    told = caught.value
    assert (told.status_code, told.code) == (502, "upstream_error")
    assert told.response.headers["x-lamplighter-error-source"] == "gateway"
    assert fakes.urls[0].split("/")[2] in told.message


@pytest.mark.parametrize("failure", ON_PLAIN)
def test_plain_answer_that_is_cut_is_an_error_and_no_short_body(
    gateway: GatewayProcess, fakes: FakeServers, one: str, failure: str
) -> None:
    fakes.script(ON_PLAIN[failure])
    got = gateway.http.post("/v1/chat/completions", json=chat(one))
    assert (got.status_code, got.json()["error"]["code"]) == (502, "response_lost")


def test_large_plain_answer_that_is_cut_ends_without_its_end(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """Too large to be held back: the connection breaks, so no client takes it for whole."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    fakes.script([head + b"%x\r\n%s\r\n" % (3_000_000, b"x" * 3_000_000), End.CLOSE])
    with pytest.raises(Exception, match="incomplete|closed"):
        gateway.http.post("/v1/chat/completions", json=chat(one))
    assert counted(gateway, one) == {"error": 1.0}


def test_stream_is_not_tried_again_after_its_first_event(
    client: OpenAI, fakes: FakeServers, two: str
) -> None:
    fakes.script(events(chunk("a"), 0.05, End.RESET))
    with pytest.raises(openai.APIError):
        answered(client, two, stream=True)
    assert len(fakes.posts) == 1


def test_error_first_of_the_only_server_reaches_the_caller(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    body = error_event("engine died")
    fakes.script(events(body))
    got = gateway.http.post("/v1/chat/completions", json=chat(one, stream=True))
    assert got.content == body


@pytest.mark.parametrize("first", ['{"error":null,"choices":[]}', '{"errors":[]}', "[]", "1"])
def test_first_event_that_is_no_error_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, two: str, first: str
) -> None:
    fakes.script(events(event(first), DONE))
    got = gateway.http.post("/v1/chat/completions", json=chat(two, stream=True))
    assert got.content == event(first) + DONE
    assert len(fakes.posts) == 1


def test_comment_before_the_first_event_does_not_hide_its_error(
    client: OpenAI, fakes: FakeServers, two: str
) -> None:
    """Some servers send comments while they load, and only then fail."""
    fakes.script(events(comment("PROCESSING"), 0.05, error_event("engine died")))
    assert answered(client, two, stream=True) == ("hello over there", "2")


def test_retries_are_bounded(start_gateway: StartGateway, fakes: FakeServers) -> None:
    both = fakes.urls
    models = {"none": model(both, retries=0), "once": model(both, retries=1)}
    gateway = start_gateway(yaml(models))
    for name, attempts in (("none", 1), ("once", 2)):
        fakes.reset()
        fakes.script(*[[End.RESET]] * 5)
        got = gateway.http.post("/v1/chat/completions", json=chat(name))
        assert got.status_code == 502
        assert len(fakes.posts) == attempts


def test_fallback_answers_with_its_own_name(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    models = {
        "first": model(fakes.urls[:1], served_as="a", fallback=["second"]),
        "second": model(fakes.urls[1:], served_as="b"),
    }
    gateway = start_gateway(yaml(models))
    fakes.script(error(503))
    got = gateway.http.post("/v1/chat/completions", json=chat("first"))
    assert got.status_code == 200
    assert [post.json["model"] for post in fakes.posts] == ["a", "b"]
    assert got.headers["x-lamplighter-model"] == "second"
    assert got.headers["x-lamplighter-served-model"] == "b"


# --- health --------------------------------------------------------------------------------------


def test_server_that_fails_again_and_again_is_left_alone_then_probed_by_one(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(*[error(500)] * 3)
    for _ in range(3):
        assert gateway.http.post("/v1/chat/completions", json=chat(one)).status_code == 500
    got = gateway.http.post("/v1/chat/completions", json=chat(one))
    assert (got.status_code, got.json()["error"]["code"]) == (503, "no_endpoints")
    assert 1 <= int(got.headers["retry-after"]) <= 120
    assert len(fakes.posts) == 3
    gate = Gate()
    fakes.script([gate, *answer({"ok": 1})])
    eventually(lambda: gateway.model(one)["endpoints"][0]["healthy"], 5, "time for a probe")
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(gateway.http.post, "/v1/embeddings", json={"model": one})
        fakes.reached(gate)
        assert gateway.http.post("/v1/embeddings", json={"model": one}).status_code == 503
        fakes.open(gate)
        assert probe.result(10).status_code == 200
    assert len(fakes.posts) == 4
    assert gateway.http.post("/v1/chat/completions", json=chat(one)).status_code == 200


def test_dead_server_is_noticed_by_its_check_and_comes_back(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    """No request needed: a check every 50 ms sees a 5xx and then a 200."""
    hot = {"urls": fakes.urls[:1], "check": {"every": "50ms"}}
    gateway = start_gateway(yaml({"checked": {"served_as": "fake", "hot": hot}}))

    def healthy() -> bool:
        return bool(gateway.model("checked")["endpoints"][0]["healthy"])

    fakes.answer_path("/v1/models", answer({"data": []}, 503))
    eventually(lambda: not healthy(), 5)
    fakes.answer_path("/v1/models", answer({"data": []}, 200))
    eventually(healthy, 5)
    listed = json.loads(gateway.http.get("/v1/models").content)
    assert listed["data"][0]["state"] == "hot"
