"""Stopped readers and callers who leave: bounded memory, and no connection left."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

import pytest

from backends.upstream import (
    NoAnswer,
    Origin,
    ResponseCut,
)
from backends.upstream_connection import HIGH_WATER
from tests.backends.upstream_server import (
    CHUNKED,
    HELLO,
    answering,
    call,
    full_backlog,
    read_all,
    read_request,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


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
                await turns(chance.randrange(3))

    async def depart(origin: Origin) -> None:
        task = asyncio.ensure_future(visit(origin))
        if chance.random() < 0.95:  # the others stay to the end
            await turns(chance.randrange(25))
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


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def visit_until_well(visit: Callable[[Origin], Awaitable[bytes]], origin: Origin) -> bytes:
    while True:
        try:
            return await visit(origin)
        except (NoAnswer, ResponseCut):
            continue
