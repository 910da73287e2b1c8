"""A tunnel through a proxy: opened and verified with the API, or told to have failed and closed."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from backends.upstream import ConnectFailed, ConnectTimeout, Origin, Timeouts
from backends.upstream_proxy import Proxy
from tests.backends.proxy_server import OPENED, FakeProxy, answering_connect, tunnelling
from tests.backends.tls import Certificate, make_certificate, needs_openssl
from tests.backends.upstream_server import (
    HELLO,
    Handler,
    answering,
    call,
    full_backlog,
    read_all,
    read_request,
    reset,
    until,
)

pytestmark = pytest.mark.anyio

API = "api.example.test"  # nobody but the proxy knows this name


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), API)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def hellos(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(HELLO)
        await writer.drain()


def through(
    proxy: FakeProxy | int,
    url: str = f"http://{API}/v1",
    *,
    tls: ssl.SSLContext | None = None,
    authorization: bytes | None = None,
) -> Origin:
    port = proxy if isinstance(proxy, int) else proxy.port
    origin = Origin(url, ssl_context=tls)
    origin.peer = replace(origin.peer, proxy=Proxy("127.0.0.1", port, "HTTPS_PROXY", authorization))
    return origin


async def ended(origin: Origin, proxy: FakeProxy) -> None:
    origin.close()
    await until(lambda: origin.open_connections == 0 and proxy.open_tunnels == 0)


async def test_plain_request_goes_through_a_tunnel_and_the_proxy_resolves_the_name() -> None:
    async with serving(hellos) as port, tunnelling(port) as proxy:
        origin = through(proxy)
        assert await read_all(await call(origin)) == b"hello"
        assert proxy.heads == [
            b"CONNECT %b:80 HTTP/1.1\r\nhost: %b:80\r\n\r\n" % ((API.encode(),) * 2)
        ]
        await ended(origin, proxy)


@needs_openssl
async def test_tls_is_verified_with_the_api_and_not_the_proxy(certificate: Certificate) -> None:
    async with serving(hellos, certificate.server()) as port, tunnelling(port) as proxy:
        origin = through(proxy, f"https://{API}:8443/v1", tls=certificate.trusted())
        assert await read_all(await call(origin)) == b"hello"
        assert proxy.targets == [f"{API}:8443"]
        await ended(origin, proxy)


@needs_openssl
@pytest.mark.parametrize(
    ("url", "trust", "why"),
    [
        ("https://other.example.test", True, "other.example.test:443 .*mismatch"),
        ("https://127.0.0.1", True, "127.0.0.1:443 .*mismatch"),
        (f"https://{API}", False, f"{API}:443 .*self.signed"),
    ],
    ids=["other-name", "address", "untrusted"],
)
async def test_certificate_is_checked_through_the_tunnel(
    certificate: Certificate, url: str, trust: bool, why: str
) -> None:
    async with serving(hellos, certificate.server()) as port, tunnelling(port) as proxy:
        origin = through(proxy, url, tls=certificate.trusted() if trust else None)
        with pytest.raises(ConnectFailed, match=f"TLS to {why}") as raised:
            await call(origin)
        assert f"through the proxy 127.0.0.1:{proxy.port} failed" in str(raised.value)
        assert origin.open_connections == 0
        await ended(origin, proxy)


async def test_tunnel_is_kept_and_used_again() -> None:
    async with serving(hellos) as port, tunnelling(port) as proxy:
        origin = through(proxy)
        for _ in range(3):
            assert await read_all(await call(origin)) == b"hello"
        assert (len(proxy.heads), origin.idle_connections) == (1, 1)
        await ended(origin, proxy)


async def test_tunnel_that_was_closed_meanwhile_is_opened_anew() -> None:
    async with serving(answering(HELLO)) as port, tunnelling(port) as proxy:
        origin = through(proxy)
        for count in range(1, 4):
            assert await read_all(await call(origin)) == b"hello"
            assert len(proxy.heads) == count
        await ended(origin, proxy)


@pytest.mark.parametrize(
    "opened",
    [
        OPENED,
        b"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",  # means nothing after CONNECT
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 204 Done\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
    ],
)
async def test_every_2xx_opens_the_tunnel(opened: bytes) -> None:
    async with serving(hellos) as port, tunnelling(port, opened) as proxy:
        origin = through(proxy)
        assert await read_all(await call(origin)) == b"hello"
        await ended(origin, proxy)


async def test_ipv6_literal_is_asked_for_in_brackets() -> None:
    async with serving(hellos) as port, tunnelling(port) as proxy:
        origin = through(proxy, "http://[2001:db8::1]/v1")
        await read_all(await call(origin))
        assert proxy.targets == ["[2001:db8::1]:80"]
        await ended(origin, proxy)


async def test_user_and_password_go_to_the_proxy_alone() -> None:
    heads: list[bytes] = []

    async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        writer.write(HELLO)

    async with serving(api) as port, tunnelling(port) as proxy:
        origin = through(proxy, authorization=b"Basic dXNlcjpvcGVu")
        await read_all(await call(origin))
        assert b"\r\nproxy-authorization: Basic dXNlcjpvcGVu\r\n" in proxy.heads[0]
        assert b"proxy" not in heads[0].lower()
        await ended(origin, proxy)


# --- a proxy that fails -------------------------------------------------------------------------


def saying(*pieces: bytes, then_close: bool = True) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if not then_close:
            await reader.read()

    return handler


async def failure(
    handler: Handler,
    files: int,
    authorization: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> str:
    """The message, without the address of the proxy that it must name; nothing is left open."""
    async with answering_connect(handler) as proxy:
        scheme = "https" if tls else "http"
        origin = through(proxy, f"{scheme}://{API}:1", tls=tls, authorization=authorization)
        with pytest.raises(ConnectFailed) as raised:
            await call(origin)
        assert not raised.value.refused
        assert origin.open_connections == 0
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    message = str(raised.value)
    assert f"the proxy 127.0.0.1:{proxy.port}" in message
    assert f"{API}:1" in message or "does not speak" in message
    return message.replace(f"the proxy 127.0.0.1:{proxy.port}", "PROXY")


@pytest.fixture
async def open_files(anyio_backend: object) -> int:
    """What the loop itself opens late is open already."""
    async with answering_connect(saying()) as proxy:
        with pytest.raises(ConnectFailed):
            await call(through(proxy))
    await asyncio.sleep(0.01)
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 502 Words of its own\r\nContent-Length: 3\r\n\r\nbad", "502 Bad Gateway"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>no</html>", "403 Forbidden"),
        (b"HTTP/1.0 503 No\r\n\r\n", "503 Service Unavailable"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.test\r\n\r\n", "302 Found"),
        (
            b"HTTP/1.1 101 Up\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
            "101 Switching Protocols",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "100 Continue"),
        (b"HTTP/1.1 799 Odd\r\n\r\n", "799"),
        (
            b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            "407 Proxy Authentication Required; it asks for a user and password in HTTPS_PROXY",
        ),
    ],
)
async def test_refusal_is_told_with_its_status(answer: bytes, told: str, open_files: int) -> None:
    assert await failure(saying(answer), open_files) == f"PROXY refused {API}:1: {told}"


async def test_wrong_password_is_told_without_the_password(open_files: int) -> None:
    answer = saying(b"HTTP/1.1 407 dXNlcjpvcGVu open\r\n\r\n")
    message = await failure(answer, open_files, b"Basic dXNlcjpvcGVu")
    assert message == (
        f"PROXY refused {API}:1: 407 Proxy Authentication Required;"
        " it does not take the user and password in HTTPS_PROXY"
    )


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 Connec", b"HTTP/1.1 200 OK\r\nA: b\r\n"])
async def test_proxy_that_closes_without_an_answer(begun: bytes, open_files: int) -> None:
    message = await failure(saying(begun), open_files)
    assert message == f"PROXY closed the connection when asked for {API}:1"


async def test_proxy_that_resets(open_files: int) -> None:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    message = await failure(handler, open_files)
    assert message == f"no connection to {API}:1 through PROXY: Connection reset by peer"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert
        b"\0" * 100,
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\n",
    ],
)
async def test_rubbish_is_told_before_the_time_is_over(rubbish: bytes, open_files: int) -> None:
    message = await failure(saying(rubbish, then_close=False), open_files)
    assert message.startswith("PROXY does not speak HTTP/1.1: ")


@pytest.mark.parametrize(
    "endless", [b"A: " + b"x" * 8000 + b"\r\n", b"x" * 8000], ids=["headers", "one header"]
)
async def test_head_without_end_is_cut_off(endless: bytes, open_files: int) -> None:
    sent = 0

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nA: ")
        while True:
            writer.write(endless)
            await writer.drain()
            await asyncio.sleep(0)
            sent += len(endless)

    message = await failure(handler, open_files)
    assert message == f"PROXY sent headers without end when asked for {API}:1"
    assert sent < 16 * 2**20  # what the buffers of two sockets take, and no more


@pytest.mark.parametrize(
    "head",
    [
        OPENED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "more", [b"1", b"hello", b"\x16\x03\x01", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n\r\n"]
)
@pytest.mark.parametrize("tls", [False, True])
async def test_bytes_before_the_first_of_ours_are_refused(
    head: bytes, more: bytes, tls: bool, open_files: int
) -> None:
    """They would be read as the API's: as an answer to the next request, or as TLS."""
    context = ssl.create_default_context() if tls else None
    message = await failure(saying(head + more), open_files, tls=context)
    assert message == f"PROXY sent more than its answer when asked for {API}:1"


async def test_bytes_that_come_late_are_no_tls(open_files: int) -> None:
    """The handshake refuses what is put before it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENED)
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await reader.read()

    message = await failure(handler, open_files, tls=ssl.create_default_context())
    assert message.startswith(f"TLS to {API}:1 through PROXY failed: ")


async def test_tunnel_that_is_closed_in_the_handshake(open_files: int) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENED)
        await reader.readexactly(5)

    message = await failure(handler, open_files, tls=ssl.create_default_context())
    assert f"{API}:1 through PROXY" in message


@pytest.mark.parametrize("opened", [b"", b"HTTP/1.1 200 OK\r\n", OPENED])
async def test_time_to_connect_counts_the_tunnel_and_the_handshake(
    opened: bytes, open_files: int
) -> None:
    async with answering_connect(saying(opened, then_close=False)) as proxy:
        origin = through(proxy, f"https://{API}")
        with pytest.raises(ConnectTimeout) as raised:
            await call(origin, timeouts=Timeouts(0.05, 5, 5))
        assert str(raised.value) == (
            f"no connection to {API}:443 through the proxy 127.0.0.1:{proxy.port} in time"
        )
        assert origin.open_connections == 0
    await until(lambda: len(os.listdir("/proc/self/fd")) <= open_files)


async def test_proxy_that_takes_no_connection_is_a_timeout() -> None:
    async with full_backlog() as port:
        with pytest.raises(ConnectTimeout, match=f"through the proxy 127.0.0.1:{port} in time"):
            await call(through(port), timeouts=Timeouts(0.05, 5, 5))


async def test_proxy_that_is_not_there_is_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectFailed, match=f"^the proxy 127.0.0.1:{port} refused") as raised:
        await call(through(port))
    assert raised.value.refused


async def test_name_of_a_proxy_that_is_unknown() -> None:
    origin = Origin(f"http://{API}")
    origin.peer = replace(origin.peer, proxy=Proxy("no-such-name.invalid", 3128, "HTTP_PROXY"))
    with pytest.raises(ConnectFailed, match="^the name of the proxy no-such-name.invalid:3128 ca"):
        await call(origin)
