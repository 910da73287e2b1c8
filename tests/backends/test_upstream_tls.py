"""TLS: verified by default, with the trust that an operator gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.upstream import ConnectFailed, ConnectTimeout, Origin, Response, Timeouts
from tests.backends.tls import Certificate, make_certificate, needs_openssl

pytestmark = [pytest.mark.anyio, needs_openssl]

PATIENT = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
BODY = b"x" * 1_000_000


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "localhost")


@asynccontextmanager
async def serving(certificate: Certificate) -> AsyncIterator[int]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=certificate.server())
    yield server.sockets[0].getsockname()[1]
    server.close()


async def call(origin: Origin, timeouts: Timeouts = PATIENT) -> Response:
    return await origin.open("POST", b"/", [], b"{}", timeouts)


async def closed(origin: Origin) -> None:
    origin.close()
    async with asyncio.timeout(5):
        while origin.open_connections:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.001)


async def test_trusted_certificate_is_taken_and_the_connection_kept(
    certificate: Certificate,
) -> None:
    async with serving(certificate) as port:
        origin = Origin(f"https://localhost:{port}", ssl_context=certificate.trusted())
        for _ in range(3):
            response = await call(origin)
            whole = bytearray()
            while piece := await response.read():
                whole += piece
            response.close()
            assert whole == BODY
            assert origin.open_connections == origin.idle_connections == 1
        await closed(origin)


async def test_unread_answer_is_dropped_at_once(certificate: Certificate) -> None:
    async with serving(certificate) as port:
        origin = Origin(f"https://localhost:{port}", ssl_context=certificate.trusted())
        response = await call(origin)
        await response.read()
        response.close()
        await closed(origin)


async def test_unknown_certificate_is_refused_by_default(certificate: Certificate) -> None:
    async with serving(certificate) as port:
        origin = Origin(f"https://localhost:{port}")
        with pytest.raises(ConnectFailed, match=r"TLS to localhost:\d+ failed: self.signed"):
            await call(origin)
        assert origin.open_connections == 0


async def test_certificate_for_another_name_is_refused(certificate: Certificate) -> None:
    async with serving(certificate) as port:
        origin = Origin(f"https://127.0.0.1:{port}", ssl_context=certificate.trusted())
        with pytest.raises(ConnectFailed, match="mismatch"):
            await call(origin)
        assert origin.open_connections == 0


async def test_certificate_that_has_expired_is_refused(tmp_path: Path) -> None:
    expired = make_certificate(tmp_path, "localhost", days=-1)
    async with serving(expired) as port:
        origin = Origin(f"https://localhost:{port}", ssl_context=expired.trusted())
        with pytest.raises(ConnectFailed, match=r"TLS to localhost:\d+ failed: .*expired"):
            await call(origin)
        assert origin.open_connections == 0


async def test_certificate_of_another_authority_is_refused(
    certificate: Certificate, tmp_path: Path
) -> None:
    """The name is right, and so is a key that is trusted: they are just not the same."""
    impostor = make_certificate(tmp_path, "localhost")
    async with serving(impostor) as port:
        origin = Origin(f"https://localhost:{port}", ssl_context=certificate.trusted())
        with pytest.raises(ConnectFailed, match=r"TLS to localhost:\d+ failed"):
            await call(origin)
        assert origin.open_connections == 0


async def test_server_without_tls_is_refused() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    origin = Origin(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ConnectFailed):
        await call(origin)
    server.close()


async def test_handshake_that_never_ends_is_a_connect_timeout() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    origin = Origin(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ConnectTimeout):
        await call(origin, Timeouts(0.05, 5, 5))
    assert origin.open_connections == 0
    server.close()
    await asyncio.sleep(0.02)
