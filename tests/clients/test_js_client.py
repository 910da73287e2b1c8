"""The JavaScript client against the fake: what the gateway's tests may expect to hear from it."""

import asyncio

import pytest

from tests.clients.fixtures import JsClient
from tests.fakes.model_server import ModelServer
from tests.fakes.wire import DONE, End, chunk, comment, error, error_event, events, finish

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_stream_is_heard_chunk_by_chunk(js_client: JsClient) -> None:
    async with ModelServer() as server:
        server.queue.append(
            events(
                comment("starting"),
                chunk("Hé"),
                chunk("llo", extra_field={"kept": 1}),
                finish(),
                DONE,
                headers=[("x-request-id", "r1")],
            )
        )
        heard = await asyncio.to_thread(js_client.stream, server.url, "fake", "hi")
    assert heard.error is None
    assert (heard.finish, heard.text) == ("stop", "Héllo")
    assert heard.chunks[1]["extra_field"] == {"kept": 1}
    assert heard.response is not None
    assert heard.response["requestId"] == "r1"
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "hi"}]


async def test_error_status_is_heard_with_its_class_and_request_id(js_client: JsClient) -> None:
    headers = [("x-request-id", "r2"), ("retry-after", "7")]
    script = error(429, "slow down", type="rate_limit_error", code="saturated", headers=headers)
    async with ModelServer() as server:
        server.queue.append(script)
        heard = await asyncio.to_thread(js_client.stream, server.url, "fake", "hi")
    assert heard.error is not None
    assert heard.error["class"] == "RateLimitError"
    assert heard.error["status"] == 429
    assert heard.error["code"] == "saturated"
    assert heard.error["requestId"] == "r2"
    assert heard.error["retryAfter"] == "7"


async def test_error_frame_in_the_stream_is_heard_after_the_chunks(js_client: JsClient) -> None:
    async with ModelServer() as server:
        server.queue.append(events(chunk("Hel"), error_event("gone", code="upstream_error")))
        heard = await asyncio.to_thread(js_client.stream, server.url, "fake", "hi")
    assert len(heard.chunks) == 1
    assert heard.error is not None
    assert (heard.error["class"], heard.error["code"]) == ("APIError", "upstream_error")


async def test_client_that_stops_early_closes_its_connection(js_client: JsClient) -> None:
    async with ModelServer() as server:
        server.queue.append(events(chunk("a"), chunk("b"), End.STALL))
        heard = await asyncio.to_thread(js_client.stream, server.url, "fake", "hi", stopAfter=2)
        await asyncio.wait_for(server.requests[0].left.wait(), 5)
    assert heard.text == "ab"
