"""The transport against raw servers that write exact bytes, on both event loops."""

import asyncio
import hashlib
import math
import os
import random
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from backends.upstream import (
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    NoAnswer,
    Origin,
    Response,
    ResponseCut,
    Timeouts,
    UpstreamError,
)
from backends.upstream_connection import HIGH_WATER

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENT = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[Origin]:
    """An origin whose server runs `handler` once per connection; no connection may be left."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    port = server.sockets[0].getsockname()[1]
    origin = Origin(f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1")
    try:
        yield origin
    finally:
        origin.close()
        server.close()
        await until(lambda: origin.open_connections == 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - many conditions, most of them not ours
            await asyncio.sleep(0.001)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head, await reader.readexactly(int(length or 0))


def answering(*pieces: bytes, then_close: bool = True) -> Handler:
    """The pieces arrive in separate reads: client and server share one loop."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if not then_close:
            await reader.read()

    return handler


def resetting(*pieces: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        reset(writer)

    return handler


def reset(writer: asyncio.StreamWriter) -> None:
    same = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    same.close()
    writer.transport.abort()


async def call(
    origin: Origin, method: str = "POST", body: bytes = b"{}", timeouts: Timeouts = PATIENT
) -> Response:
    headers = [(b"content-type", b"application/json")]
    return await origin.open(method, origin.target_prefix + b"/x", headers, body, timeouts)


async def read_all(response: Response) -> bytes:
    try:
        whole = bytearray()
        while piece := await response.read():
            whole += piece
        return bytes(whole)
    finally:
        response.close()


async def read_until_error(response: Response) -> tuple[bytes, UpstreamError]:
    whole = bytearray()
    try:
        while piece := await response.read():
            whole += piece
    except UpstreamError as error:
        return bytes(whole), error
    finally:
        response.close()
    raise AssertionError("the body ended well")


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


async def test_closed_origin_keeps_nothing() -> None:
    async with serving(answering(HELLO, then_close=False)) as origin:
        response = await call(origin)
        origin.close()
        assert await read_all(response) == b"hello"
        assert origin.idle_connections == 0


# -- failures


async def test_reset_before_the_head_is_no_answer() -> None:
    async with serving(resetting()) as origin:
        with pytest.raises(NoAnswer) as raised:
            await call(origin)
        assert raised.value.stage == "head"
        assert isinstance(raised.value.__cause__, ConnectionResetError)


async def test_close_before_the_head_is_no_answer() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-")) as origin:
        with pytest.raises(NoAnswer):
            await call(origin)


@pytest.mark.parametrize(
    ("handler", "before"),
    [
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), b"hello"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), b""),
        (answering(CHUNKED + b"5\r\nhello\r\n"), b"hello"),
        (answering(CHUNKED + b"9\r\nhello"), b"hello"),
        (answering(CHUNKED + b"5\r\nhello\r\n0\r\n"), b"hello"),
        (resetting(CHUNKED + b"5\r\nhello\r\n"), b"hello"),
        (resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), b"hello"),
        (resetting(b"HTTP/1.1 200 OK\r\n\r\nhello"), b"hello"),
    ],
    ids=[
        "length",
        "length-at-once",
        "chunked",
        "in-chunk",
        "in-trailer",
        "chunked-reset",
        "length-reset",
        "close-reset",
    ],
)
async def test_body_cut_short_is_an_error_after_what_came(handler: Handler, before: bytes) -> None:
    async with serving(handler) as origin:
        whole, error = await read_until_error(await call(origin))
        assert (whole, type(error), error.stage) == (before, ResponseCut, "body")


async def test_reset_after_the_whole_body_is_no_error() -> None:
    async with serving(resetting(HELLO)) as origin:
        response = await call(origin)
        await until(lambda: origin.open_connections == 0)
        assert await read_all(response) == b"hello"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nHT",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 201 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 1_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    ],
)
async def test_head_that_is_not_acceptable_is_a_bad_response(raw: bytes) -> None:
    async with serving(answering(raw, then_close=False)) as origin:
        with pytest.raises(BadResponse) as raised:
            await call(origin)
        assert raised.value.stage == "head"
        assert origin.idle_connections == 0


async def test_head_within_the_bounds_is_taken() -> None:
    raw = b"HTTP/1.1 200 OK\r\na: " + b"b" * 60_000 + b"\r\n" + b"c: d\r\n" * 190
    body = b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000
    async with serving(answering(raw + body)) as origin:
        assert len(await read_all(await call(origin))) == 300_000


@pytest.mark.parametrize(
    ("raw", "before"),
    [
        (CHUNKED + b"5\r\nhello\r\nzz\r\n", b"hello"),
        (CHUNKED + b"5\r\nhelloxx0\r\n\r\n", b"hello"),
        (CHUNKED + b"fffffffffffffffff\r\n", b""),
        (CHUNKED + b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 100_000, b"hello"),
        (HELLO + b"more", b"hello"),
        (HELLO + HELLO, b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nmore", b"hello"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhellomore", b"hello"),
    ],
)
async def test_body_that_breaks_its_framing_is_a_bad_response(raw: bytes, before: bytes) -> None:
    async with serving(answering(raw, then_close=False)) as origin:
        whole, error = await read_until_error(await call(origin))
        assert (whole, type(error), error.stage) == (before, BadResponse, "body")
        assert origin.idle_connections == 0


async def test_server_that_never_answers_is_a_first_byte_timeout() -> None:
    async with serving(answering(then_close=False)) as origin:
        with pytest.raises(FirstByteTimeout):
            await call(origin, timeouts=Timeouts(5, 0.03, 5))


async def test_head_that_trickles_is_a_first_byte_timeout() -> None:
    async with serving(answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP", then_close=False)) as origin:
        with pytest.raises(FirstByteTimeout):
            await call(origin, timeouts=Timeouts(5, 0.05, 5))


async def test_request_that_nobody_reads_is_a_first_byte_timeout() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)

    async with serving(handler) as origin:
        with pytest.raises(FirstByteTimeout):
            await call(origin, body=b"x" * 32 * 1024 * 1024, timeouts=Timeouts(5, 0.05, 5))


async def test_long_request_read_slowly_is_not_a_timeout() -> None:
    body = b"x" * 48 * 1024 * 1024

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(48):
            await reader.readexactly(1024 * 1024)
            await asyncio.sleep(0.005)
        writer.write(HELLO)

    async with serving(handler) as origin:
        started = asyncio.get_running_loop().time()
        assert await read_all(await call(origin, body=body, timeouts=Timeouts(5, 0.15, 5)))
        assert asyncio.get_running_loop().time() - started > 0.2


async def test_body_that_stalls_is_an_idle_timeout_after_what_came() -> None:
    async with serving(answering(CHUNKED + b"5\r\nhello\r\n", then_close=False)) as origin:
        response = await call(origin, timeouts=Timeouts(5, 5, 0.03))
        whole, error = await read_until_error(response)
        assert (whole, type(error)) == (b"hello", IdleTimeout)


async def test_slow_reader_is_not_an_idle_timeout() -> None:
    async with serving(answering(HELLO[:-3], b"llo")) as origin:
        response = await call(origin, timeouts=Timeouts(5, 5, 0.02))
        await asyncio.sleep(0.06)
        assert await read_all(response) == b"hello"


async def test_interrupted_reads_lose_nothing_and_do_not_hold_off_the_idle_timeout() -> None:
    async with serving(answering(HELLO[:-3], then_close=False)) as origin:
        response = await call(origin, timeouts=Timeouts(5, 5, 0.1))
        assert await response.read() == b"he"
        with pytest.raises(IdleTimeout):  # noqa: PT012
            for _ in range(100):
                try:
                    await asyncio.wait_for(response.read(), 0.01)
                except TimeoutError:
                    continue
        response.close()


async def test_infinite_timeouts_are_taken() -> None:
    async with serving(answering(HELLO[:-3], b"llo")) as origin:
        never = Timeouts(math.inf, math.inf, math.inf)
        assert await read_all(await call(origin, timeouts=never)) == b"hello"


async def test_refused_connection_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        origin = Origin(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConnectFailed) as raised:
            await call(origin)
    assert raised.value.refused
    assert origin.open_connections == 0


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """A port whose queue of connections is full: the next SYN is dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.01)
        yield port
        for filler in fillers:
            filler.close()


async def test_server_that_accepts_nothing_is_a_connect_timeout() -> None:
    async with full_backlog() as port:
        origin = Origin(f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectTimeout):
            await call(origin, timeouts=Timeouts(0.03, 5, 5))
        assert origin.open_connections == 0


async def test_ipv6_literal_is_connected() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with serving(answering(HELLO), host="::1") as origin:
        assert await read_all(await call(origin)) == b"hello"


# -- back-pressure and cancellation


async def test_stopped_reader_stops_the_server() -> None:
    total, piece = 50 * 1024 * 1024, b"x" * 256 * 1024
    written = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while written < total:
            writer.write(piece)
            await writer.drain()
            written += len(piece)

    async with serving(handler) as origin:
        response = await call(origin)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert written < total / 2  # what the two kernels' buffers hold
        first = await response.read()
        assert len(first) <= HIGH_WATER + 256 * 1024
        assert len(first) + len(await read_all(response)) == total


async def test_cancelled_connect_leaves_nothing() -> None:
    async with full_backlog() as port:
        origin = Origin(f"http://127.0.0.1:{port}")
        task = asyncio.ensure_future(call(origin))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert origin.open_connections == 0


async def test_cancelled_wait_for_the_head_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()
        gone.set()

    async with serving(handler) as origin:
        task = asyncio.ensure_future(call(origin))
        await until(lambda: origin.open_connections == 1)
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 0.1)


async def test_cancelled_read_followed_by_close_drops_the_connection() -> None:
    async with serving(answering(HELLO[:-3], then_close=False)) as origin:
        response = await call(origin)
        task = asyncio.ensure_future(read_all(response))
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: origin.open_connections == 0)


async def test_10_000_departures_at_random_moments_leave_nothing() -> None:
    chance = random.Random(7)
    heard: set[str] = set()
    files = len(os.listdir("/proc/self/fd"))

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for piece in (CHUNKED[:20], CHUNKED[20:], b"5\r\nhello\r\n", b"0\r\n\r\n"):
                if chance.random() < 0.05 or writer.is_closing():
                    return
                writer.write(piece)
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)

    async def depart(origin: Origin) -> None:
        task = asyncio.ensure_future(visit(origin))
        for _ in range(chance.randrange(25)):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        heard.add(type(result).__name__)

    async def visit(origin: Origin) -> bytes:
        return await read_all(await call(origin))

    async with serving(handler) as origin:
        for _ in range(100):
            await asyncio.gather(*(depart(origin) for _ in range(100)))
        assert heard <= {"bytes", "CancelledError", "NoAnswer", "ResponseCut"}
        assert {"bytes", "CancelledError"} <= heard
        assert await visit_until_well(visit, origin) == b"hello"
        origin.close()
        await until(lambda: origin.open_connections == 0)
    # One more: uvloop opens /dev/null at its first listener and keeps it.
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files + 1)


async def visit_until_well(visit: Callable[[Origin], Awaitable[bytes]], origin: Origin) -> bytes:
    while True:
        try:
            return await visit(origin)
        except (NoAnswer, ResponseCut):
            continue
