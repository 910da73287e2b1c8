"""A model server's errors reach the caller as the class that the SDK has for them, unchanged."""

import json

import openai
import pytest
from openai import OpenAI

from tests.fakes.threaded import FakeServers
from tests.fakes.wire import answer, error
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, counted

CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    413: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


@pytest.mark.parametrize("status", CLASSES)
def test_error_of_the_only_server_raises_its_sdk_class(
    client: OpenAI, fakes: FakeServers, one: str, status: int
) -> None:
    fakes.script(error(status, "the server's own words", type="odd_error", code="odd"))
    with pytest.raises(CLASSES[status]) as caught:
        client.chat.completions.create(model=one, messages=HELLO)
    told = caught.value
    assert told.status_code == status
    assert (told.type, told.code) == ("odd_error", "odd")
    assert "the server's own words" in told.message
    assert told.response.headers["x-lamplighter-error-source"] == "backend"
    assert told.request_id == told.response.headers["x-request-id"]
    assert len(fakes.posts) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize("stream", [False, True])
def test_error_body_of_a_server_is_byte_equal(
    gateway: GatewayProcess, fakes: FakeServers, one: str, status: int, stream: bool
) -> None:
    body = b'{ "error" : {"message":"n\xc3\xb6","code":400.0 , "extra": [1e2]},  "more":null}\n'
    fakes.script(answer(body, status))
    got = gateway.http.post("/v1/chat/completions", json=chat(one, stream=stream))
    assert (got.status_code, got.content) == (status, body)


def test_error_that_is_not_json_is_passed_as_it_is(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(answer(b"<html>teapot</html>", 418, content_type="text/html"))
    got = gateway.http.post("/v1/chat/completions", json=chat(one))
    assert (got.status_code, got.text) == (418, "<html>teapot</html>")
    assert got.headers["content-type"] == "text/html"


def test_error_of_a_server_on_a_stream_is_a_status_and_not_a_stream(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    fakes.script(error(400, "too long", type="invalid_request_error", code=400))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=one, messages=HELLO, stream=True)
    assert caught.value.code == "400"  # vLLM's codes are numbers; the SDK makes them text


def test_caller_errors_never_open_the_breaker(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    for status in (400, 401, 404, 422, 429) * 2:
        fakes.script(error(status))
        assert gateway.http.post("/v1/chat/completions", json=chat(one)).status_code == status
    assert gateway.http.post("/v1/chat/completions", json=chat(one)).status_code == 200
    assert gateway.model(one)["endpoints"][0]["healthy"]
    assert counted(gateway, one) == {"client_error": 10.0, "ok": 1.0}


def test_client_tries_again_what_may_succeed(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(error(429, headers=[("retry-after-ms", "10")]))
    with OpenAI(base_url=gateway.base_url, api_key="k", max_retries=1) as client:
        got = client.chat.completions.create(model=one, messages=HELLO)
    assert got.choices[0].message.content == "hello over there"
    assert [post.header("x-stainless-retry-count") for post in fakes.posts] == ["0", "1"]


def test_client_does_not_try_again_what_cannot_succeed(gateway: GatewayProcess) -> None:
    before = counted(gateway, "other").get("client_error", 0.0)
    with (
        OpenAI(base_url=gateway.base_url, api_key="k", max_retries=2) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    eventually(lambda: counted(gateway, "other")["client_error"] == before + 1, 5)


@pytest.mark.parametrize(
    ("path", "outer"),
    [
        ("/v1/chat/completions", {"error"}),
        ("/v1/completions", {"error"}),
        ("/v1/responses", {"error"}),
        ("/v1/embeddings", {"error"}),
        ("/v1/messages", {"error", "type", "request_id"}),
        ("/v1/messages/count_tokens", {"error", "type", "request_id"}),
    ],
)
def test_gateway_error_has_the_shape_of_its_dialect(
    gateway: GatewayProcess, path: str, outer: set[str]
) -> None:
    got = gateway.http.post(path, json=chat("no-such-model"), headers={"x-request-id": "mine-1"})
    body = json.loads(got.content)
    assert got.status_code == 404
    assert set(body) == outer
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == "model_not_found"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-lamplighter-error-source"] == "gateway"
    assert got.headers["x-lamplighter-reason"] == "model-not-found"
    assert got.headers["x-should-retry"] == "false"
    if "request_id" in outer:
        assert (body["type"], body["request_id"]) == ("error", "mine-1")
