"""Raw servers that write exact bytes, and the calls that tests make to them."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from backends.upstream import (
    Origin,
    Response,
    Timeouts,
    UpstreamError,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENT = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


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
