"""A forward proxy that opens tunnels, or does what a test wants instead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.backends.upstream_server import Handler

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class FakeProxy:
    """`heads`: what it was asked, each request up to the empty line."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []
        self.open_tunnels = 0

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]


@asynccontextmanager
async def tunnelling(
    to_port: int, opened: bytes = OPENED, *, refusing: str | None = None
) -> AsyncIterator[FakeProxy]:
    """Whatever name is asked for, the tunnel leads to a port of this machine; but for one name."""

    async def relay(
        proxy: FakeProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if refusing is not None and refusing in proxy.targets[-1]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        proxy.open_tunnels += 1
        try:
            for byte in opened:  # torn, as networks may
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer))
        finally:
            proxy.open_tunnels -= 1
            far_writer.close()

    async with _proxying(relay) as proxy:
        yield proxy


@asynccontextmanager
async def answering_connect(handler: Handler) -> AsyncIterator[FakeProxy]:
    """`handler` goes on once the head of a CONNECT was read."""

    async def handle(
        _: FakeProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await handler(reader, writer)

    async with _proxying(handle) as proxy:
        yield proxy


@asynccontextmanager
async def _proxying(relay) -> AsyncIterator[FakeProxy]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            proxy.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await relay(proxy, reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    proxy = FakeProxy(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of a tunnel."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
