"""What goes wrong between gateway and server, each told by its own error, on both event loops."""

import asyncio
import math
import socket

import pytest

from backends.upstream import (
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    NoAnswer,
    Origin,
    ResponseCut,
    Timeouts,
)
from tests.backends.upstream_server import (
    CHUNKED,
    HELLO,
    Handler,
    answering,
    call,
    full_backlog,
    read_all,
    read_until_error,
    resetting,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


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
    ],
)
async def test_body_that_breaks_its_framing_is_a_bad_response(raw: bytes, before: bytes) -> None:
    async with serving(answering(raw, then_close=False)) as origin:
        whole, error = await read_until_error(await call(origin))
        assert (whole, type(error), error.stage) == (before, BadResponse, "body")
        assert origin.idle_connections == 0


@pytest.mark.parametrize(
    "raw",
    [
        HELLO + b"more",
        HELLO + HELLO,
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhellomore",
    ],
)
async def test_what_follows_a_whole_response_is_nobodys(raw: bytes) -> None:
    async with serving(answering(raw, then_close=False)) as origin:
        assert await read_all(await call(origin)) == b"hello"
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
