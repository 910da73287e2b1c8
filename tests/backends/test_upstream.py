"""Framing and keep-alive, against raw servers that write exact bytes, on both event loops."""

import asyncio
import hashlib
import random
import zlib

import pytest

from backends.upstream import (
    NoAnswer,
    Origin,
    ResponseCut,
)
from tests.backends.upstream_server import (
    CHUNKED,
    HELLO,
    answering,
    call,
    read_all,
    read_request,
    reset,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# -- framing


async def test_request_is_written_once_and_whole() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(HELLO)

    async with serving(handler) as origin:
        assert await read_all(await call(origin, body=b'{"a":1}')) == b"hello"
        assert await read_all(await call(origin, "GET", body=b"")) == b"hello"
    host = f"127.0.0.1:{origin.peer.port}".encode()
    assert seen == [
        (
            b"POST /v1/x HTTP/1.1\r\nhost: " + host + b"\r\ncontent-type: application/json\r\n"
            b"content-length: 7\r\n\r\n",
            b'{"a":1}',
        ),
        (
            b"GET /v1/x HTTP/1.1\r\nhost: " + host + b"\r\ncontent-type: application/json\r\n\r\n",
            b"",
        ),
    ]


async def test_head_is_parsed_with_names_in_lower_case() -> None:
    raw = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3 \r\nX-Empty:\r\nX-A: 1\r\nX-A: 2\r\n"
    async with serving(answering(raw + b"Content-Length: 0\r\n\r\n")) as origin:
        response = await call(origin)
        assert response.status == 429
        assert response.headers == [
            (b"retry-after", b"3"),
            (b"x-empty", b""),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"content-length", b"0"),
        ]
        assert await read_all(response) == b""


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (HELLO, b"hello"),
        (CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-Trailer: 1\r\n\r\n", b"hello"),
        (CHUNKED + b"6\r\n\xc3\xa9\r\n\r\n\r\n0\r\n\r\n", b"\xc3\xa9\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nlink: a\r\n\r\n" + HELLO, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "bytes", "close", "http10", "interim", "204", "304"],
)
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
async def test_body_arrives_unchanged(raw: bytes, body: bytes, torn: bool) -> None:
    pieces = [raw[i : i + 1] for i in range(len(raw))] if torn else [raw]
    async with serving(answering(*pieces)) as origin:
        response = await call(origin)
        assert response.status in (200, 204, 304)
        assert await read_all(response) == body


async def test_head_request_has_no_body_and_is_followed_by_another() -> None:
    heads = iter([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", HELLO])

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(next(heads))

    async with serving(handler) as origin:
        assert await read_all(await call(origin, "HEAD", b"")) == b""
        assert await read_all(await call(origin)) == b"hello"
        assert origin.open_connections == 1


async def test_16_mib_body_arrives_whole() -> None:
    body = random.Random(3).randbytes(16 * 1024 * 1024)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(answering(head, body)) as origin:
        whole = await read_all(await call(origin))
        assert hashlib.sha256(whole).digest() == hashlib.sha256(body).digest()


async def test_large_request_body_arrives_whole() -> None:
    body = random.Random(4).randbytes(8 * 1024 * 1024)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, got = await read_request(reader)
        digest = hashlib.sha256(got).hexdigest().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest)
        await reader.read()

    async with serving(handler) as origin:
        digest = await read_all(await call(origin, body=body))
        assert digest == hashlib.sha256(body).hexdigest().encode()
        assert origin.idle_connections == 1


async def test_compressed_bytes_pass_untouched() -> None:
    packed = zlib.compress(b"hello" * 100, wbits=31)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with serving(answering(head + packed)) as origin:
        assert await read_all(await call(origin)) == packed


async def test_answer_before_the_request_was_read_is_delivered() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(0.02)

    async with serving(handler) as origin:
        response = await call(origin, body=b"x" * 32 * 1024 * 1024)
        assert response.status == 413
        assert await read_all(response) == b"big"
        assert origin.idle_connections == 0


async def test_answer_before_the_request_was_sent_is_delivered() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")

    async with serving(handler) as origin:
        for _ in range(20):
            response = await call(origin)
            assert response.status == 503
            assert await read_all(response) == b"busy"


# -- keep-alive


async def test_connection_is_kept_and_used_again() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(HELLO)

    async with serving(handler) as origin:
        for _ in range(50):
            assert await read_all(await call(origin)) == b"hello"
        assert (connections, origin.open_connections, origin.idle_connections) == (1, 1, 1)
        both = await asyncio.gather(call(origin), call(origin))
        assert [await read_all(response) for response in both] == [b"hello", b"hello"]
        assert (connections, origin.idle_connections) == (2, 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["close", "http10", "chunked+length", "length+chunked"],
)
async def test_connection_that_should_not_be_kept_is_closed(raw: bytes) -> None:
    async with serving(answering(raw, then_close=False)) as origin:
        assert await read_all(await call(origin)) == b"hello"
        assert origin.idle_connections == 0


async def test_response_closed_before_its_end_closes_the_connection_at_once() -> None:
    noticed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        assert await reader.read() == b""
        noticed.set()

    async with serving(handler) as origin:
        response = await call(origin)
        assert await response.read() == b"hello"
        response.close()
        response.close()
        await asyncio.wait_for(noticed.wait(), 0.1)
        with pytest.raises(ResponseCut):
            await response.read()


async def test_response_closed_unread_but_complete_keeps_the_connection() -> None:
    async with serving(answering(HELLO, then_close=False)) as origin:
        response = await call(origin)
        await asyncio.sleep(0.01)
        response.close()
        assert origin.idle_connections == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_kept_connection_found_dead_is_replaced_unseen(how: str) -> None:
    """The server reads the second request and drops the connection without a byte."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(HELLO)
        await read_request(reader)
        if how == "reset":
            reset(writer)

    async with serving(handler) as origin:
        for _ in range(4):
            assert await read_all(await call(origin)) == b"hello"
        assert connections == 4


async def test_kept_connection_that_died_after_some_bytes_is_not_tried_again() -> None:
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for raw in (HELLO, b"HTTP/1.1 2"):
            await read_request(reader)
            requests += 1
            writer.write(raw)

    async with serving(handler) as origin:
        assert await read_all(await call(origin)) == b"hello"
        with pytest.raises(NoAnswer):
            await call(origin)
        assert requests == 2


async def test_idle_connection_closed_by_the_server_is_forgotten() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HELLO)
        await asyncio.sleep(0.01)

    async with serving(handler) as origin:
        assert await read_all(await call(origin)) == b"hello"
        await until(lambda: origin.open_connections == 0)
        assert origin.idle_connections == 0


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HELLO)
        await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with serving(handler) as origin:
        assert await read_all(await call(origin)) == b"hello"
        await until(lambda: origin.open_connections == 0)


async def test_idle_connection_is_closed_after_keepalive_s() -> None:
    async with serving(answering(HELLO, then_close=False)) as first:
        origin = Origin(f"http://127.0.0.1:{first.peer.port}", keepalive_s=0.03)
        assert await read_all(await call(origin)) == b"hello"
        assert origin.idle_connections == 1
        await until(lambda: origin.open_connections == 0)


async def test_connection_that_is_old_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never idle would stay at an address that its name has left."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(HELLO)

    async with serving(handler) as origin:
        assert await read_all(await call(origin)) == b"hello"
        assert origin.idle_connections == 1
        monkeypatch.setattr("backends.upstream.GREATEST_AGE_S", -1.0)
        assert await read_all(await call(origin)) == b"hello"
        assert origin.idle_connections == 0
        await until(lambda: origin.open_connections == 0)


async def test_pump_gives_every_byte_in_order_and_then_ends() -> None:
    pieces = [b"a" * 70_000, b"b", b"c" * 300_000]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await read_request(reader)

    async with serving(handler) as origin:
        response = await call(origin)
        got: list[bytes] = []
        await response.pump(got.append)
        assert b"".join(got) == b"".join(pieces)
        assert response.ended
        response.close()
        assert origin.idle_connections == 1


async def test_pump_gives_what_came_before_a_cut_and_then_raises() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfive.")) as origin:
        response = await call(origin)
        got: list[bytes] = []
        with pytest.raises(ResponseCut):
            await response.pump(got.append)
        assert b"".join(got) == b"five."
        response.close()


async def test_held_pump_stops_the_server_and_goes_on_with_every_byte() -> None:
    size = 32 * 1024 * 1024  # more than the system's buffers hold
    sent = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(bytes(65536))
            await writer.drain()
        sent.set()

    async with serving(handler) as origin:
        response = await call(origin)
        received = 0

        def sink(piece: bytes) -> None:
            nonlocal received
            received += len(piece)

        response.hold()
        pumping = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0.2)
        assert received < size // 2
        assert not sent.is_set()
        response.go_on()
        await pumping
        assert received == size
        response.close()


async def test_closed_origin_keeps_nothing() -> None:
    async with serving(answering(HELLO, then_close=False)) as origin:
        response = await call(origin)
        origin.close()
        assert await read_all(response) == b"hello"
        assert origin.idle_connections == 0
