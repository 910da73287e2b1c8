"""Which headers cross the gateway, seen on the wire on both sides of it."""

import re

import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, answer, chunk, error, events
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, model, raw, yaml

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def post(gateway: GatewayProcess, name: str, headers: dict[str, str], **more: object):
    return gateway.http.post("/v1/chat/completions", json=chat(name, **more), headers=headers)


# --- to the server -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer sk-caller"),
        ("x-api-key", "sk-caller"),
        ("api-key", "sk-caller"),
        ("cookie", "session=1"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2c"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-lamplighter-instance", "mine"),
        ("sec-fetch-mode", "cors"),
        ("expect", "100-continue"),
    ],
    ids=lambda header: header[0],
)
def test_header_for_the_gateway_does_not_reach_the_server(
    gateway: GatewayProcess, fakes: FakeServers, header: tuple[str, str]
) -> None:
    name, value = header
    assert post(gateway, "fake", {name: value}).status_code == 200
    assert fakes.last.header(name) is None
    assert value not in [sent for _, sent in fakes.last.headers]


def test_header_that_connection_names_does_not_reach_the_server(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    got = post(gateway, "fake", {"connection": "keep-alive, X-Hop", "x-hop": "1", "x-two": "2"})
    assert got.status_code == 200
    assert fakes.last.header("x-hop") is None
    assert fakes.last.header("x-two") == "2"


def test_other_headers_reach_the_server(gateway: GatewayProcess, fakes: FakeServers) -> None:
    sent = {
        "traceparent": TRACE,
        "tracestate": "v=1",
        "user-agent": "me/1",
        "openai-organization": "org",
        "x-custom": "kept",
        "idempotency-key": "k1",
    }
    post(gateway, "fake", sent)
    assert {name: fakes.last.header(name) for name in sent} == sent


def test_headers_that_frame_the_request_come_once(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    post(gateway, "fake", {"x-request-id": "mine"})
    names = [name.lower() for name, _ in fakes.last.headers]
    for name in ("host", "content-length", "x-request-id", "accept-encoding", "content-type"):
        assert names.count(name) == 1
    assert fakes.last.header("host") == fakes.urls[0].split("/")[2]


def test_key_of_a_server_reaches_it_and_nobody_else(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    keyed = [{"url": fakes.urls[0], "key": "sk-upstream-secret"}]
    gateway = start_gateway(yaml({"keyed": model(keyed), "other": model(fakes.urls[:1])}))
    got = post(gateway, "keyed", {"authorization": "Bearer sk-caller-secret"})
    assert fakes.last.header("authorization") == "Bearer sk-upstream-secret"
    assert "secret" not in str(got.headers) + got.text
    post(gateway, "other", {"authorization": "Bearer sk-caller-secret"})
    assert fakes.last.header("authorization") is None
    config = gateway.admin("GET", "/config").text
    assert "secret" not in config
    assert "secret" not in gateway.log
    assert fakes.urls[0].split("/")[2] in config


def test_outside_api_gets_only_what_the_protocol_needs(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    api = {"url": fakes.urls[0], "model": "fake", "key": "sk-api"}
    gateway = start_gateway(yaml({"outside": {"api": api}}))
    sent = {"x-openwebui-user-email": "me@x", "x-custom": "1", "openai-beta": "b", "referer": "r"}
    got = post(gateway, "outside", {**sent, "traceparent": TRACE, "authorization": "Bearer c"})
    assert got.status_code == 200
    assert got.headers["x-lamplighter-placement"] == "api"
    assert fakes.last.header("authorization") == "Bearer sk-api"
    assert fakes.last.header("openai-beta") == "b"
    assert fakes.last.header("traceparent") == TRACE
    for name in ("x-openwebui-user-email", "x-custom", "referer"):
        assert fakes.last.header(name) is None


# --- to the caller -------------------------------------------------------------------------------


def test_headers_of_an_answer_are_passed_or_dropped(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    passed = {
        "x-ratelimit-remaining-requests": "9",
        "openai-processing-ms": "12",
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-custom": "kept",
    }
    dropped = {
        "set-cookie": "a=b",
        "server": "uvicorn",
        "x-powered-by": "vLLM",
        "via": "1.1 x",
        "keep-alive": "timeout=1",
        "access-control-allow-origin": "*",
        "x-lamplighter-model": "forged",
        "strict-transport-security": "max-age=1",
        "x-request-id": "theirs",
    }
    fakes.script(answer({"ok": 1}, headers=[*passed.items(), *dropped.items()]))
    got = post(gateway, "fake", {"x-request-id": "mine"})
    assert {name: got.headers[name] for name in passed} == passed
    for name, value in dropped.items():
        assert value not in got.headers.get_list(name)
    assert got.headers["x-lamplighter-model"] == "fake"


def test_answer_tells_who_gave_it(gateway: GatewayProcess, fakes: FakeServers, one: str) -> None:
    got = post(gateway, one, {})
    told = {n: v for n, v in got.headers.items() if n.startswith("x-lamplighter-")}
    assert told.pop("x-lamplighter-wait-ms").isdigit()
    assert told == {
        "x-lamplighter-model": one,
        "x-lamplighter-served-model": "fake",
        "x-lamplighter-placement": "hot",
        "x-lamplighter-instance": fakes.urls[0].split("/")[2],
        "x-lamplighter-cold-start": "false",
        "x-lamplighter-attempts": "1",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_answer_is_framed_once(gateway: GatewayProcess, fakes: FakeServers, stream: bool) -> None:
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: x",
        b"content-type: application/json",
        b"connection: close",
    ]
    body = b'{"model":"fake","stream":%s,"messages":[{"role":"user","content":"hi"}]}'
    body %= b"true" if stream else b"false"
    lines.append(b"content-length: %d" % len(body))
    head = raw(gateway, b"\r\n".join([*lines, b"", body])).partition(b"\r\n\r\n")[0].lower()
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert names.count(b"content-length") == (0 if stream else 1)
    assert names.count(b"transfer-encoding") == (1 if stream else 0)
    assert len(names) == len(set(names))


def test_stream_with_a_length_is_passed_without_it(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """The usage chunk that is taken out would make the length a lie."""
    body = chunk("a") + DONE
    fakes.script(answer(body, content_type="text/event-stream; charset=utf-8"))
    got = post(gateway, one, {}, stream=True)
    assert got.content == body
    assert "content-length" not in got.headers


# --- request ids ---------------------------------------------------------------------------------


def test_request_id_of_the_caller_is_kept_everywhere(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    got = post(gateway, "fake", {"x-request-id": "Caller.Id-1_x"})
    assert got.headers.get_list("x-request-id") == ["Caller.Id-1_x"]
    assert fakes.last.header("x-request-id") == "Caller.Id-1_x"
    eventually(lambda: "Caller.Id-1_x chat model=fake" in gateway.log)


@pytest.mark.parametrize("bad", ["a b", "x" * 129, 'a"b', "a/b", "é"])
def test_request_id_that_is_no_token_is_replaced(
    gateway: GatewayProcess, fakes: FakeServers, bad: str
) -> None:
    got = gateway.http.post(
        "/v1/chat/completions", json=chat("fake"), headers={"x-request-id": bad.encode()}
    )
    assert re.fullmatch(r"req_[0-9a-f]{32}", got.headers["x-request-id"])
    assert fakes.last.header("x-request-id") == got.headers["x-request-id"]


def test_request_id_reaches_the_client_object(client: OpenAI, fakes: FakeServers) -> None:
    answer = client.chat.completions.create(model="fake", messages=HELLO)
    assert answer._request_id == fakes.last.header("x-request-id")


@pytest.mark.parametrize(
    "ask",
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/nothing"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/admin/config"),
        ("GET", "/nowhere"),
        ("POST", "/v1/chat/completions"),
        ("PUT", "/v1/chat/completions"),
    ],
    ids=" ".join,
)
def test_every_answer_has_one_request_id(gateway: GatewayProcess, ask: tuple[str, str]) -> None:
    got = gateway.http.request(*ask, headers={"x-request-id": "mine-2"})
    assert got.headers.get_list("x-request-id") == ["mine-2"]


def test_retry_after_of_a_rate_limited_server_is_passed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(error(429, headers=[("Retry-After", "17"), ("x-should-retry", "true")]))
    got = post(gateway, one, {})
    assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("17", "true")


def test_stream_headers_reach_the_caller(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(events(chunk("a"), DONE, headers=[("x-ratelimit-limit-tokens", "5")]))
    got = post(gateway, one, {"x-request-id": "mine-3"}, stream=True)
    assert got.headers["x-ratelimit-limit-tokens"] == "5"
    assert got.headers["x-request-id"] == "mine-3"
    assert got.headers["x-lamplighter-instance"] == fakes.urls[0].split("/")[2]
