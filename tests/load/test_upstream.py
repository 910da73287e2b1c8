"""The rig's model server: requests torn, large, and with streams."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from load_tests.rig.calls import chat, large_body, post, small_body, stream_body
from load_tests.rig.upstream import PLAIN, TOKEN, Connection

pytestmark = pytest.mark.anyio
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def call() -> AsyncIterator[Streams]:
    loop = asyncio.get_running_loop()
    Connection.wheels.clear()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader, writer
    writer.close()
    await writer.wait_closed()
    server.close()
    for wheel in Connection.wheels.values():
        wheel.stop()


@pytest.mark.parametrize("body", [small_body(), large_body()], ids=["small", "large"])
async def test_plain_request_is_answered_when_it_is_whole(call: Streams, body: str) -> None:
    reader, writer = call
    request = post(body)
    for _ in range(3):  # on one connection
        writer.write(request[:50])
        await asyncio.sleep(0.01)
        writer.write(request[50:])
        assert await reader.readexactly(len(PLAIN)) == PLAIN


async def test_stream_brings_each_token_and_an_end(call: Streams) -> None:
    reader, writer = call
    writer.write(post(stream_body(20, 5)))
    answer = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert answer.count(TOKEN.encode()) == 5
    assert answer.count(b'"usage"') == 0
    assert b"data: [DONE]\n\n" in answer


async def test_usage_comes_to_who_asks(call: Streams) -> None:
    reader, writer = call
    options = {"include_usage": True}
    body = chat("pace-20ms", stream=True, max_tokens=1, stream_options=options)
    writer.write(post(body))
    answer = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert answer.count(b'"usage"') == 1
