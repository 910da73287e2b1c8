"""Addresses are raced, names are resolved for each connection, nothing of a lost one is left."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import pytest

from backends import upstream_dial
from backends.upstream import ConnectFailed, ConnectTimeout, Origin, Timeouts
from backends.upstream_dial import _first_connected, _interleaved
from backends.upstream_proxy import Proxy
from tests.backends.proxy_server import tunnelling
from tests.backends.tls import Certificate, make_certificate, needs_openssl
from tests.backends.upstream_server import HELLO, call, read_all, read_request, until

pytestmark = pytest.mark.anyio

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@contextmanager
def listening(backlog: int = 1000) -> Iterator[tuple[str, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield listener.getsockname()


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: its queue is full."""
    with listening(0) as address:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        await asyncio.sleep(0.01)
        yield address
        for filler in fillers:
            filler.close()


def refusing() -> tuple[str, int]:
    with listening() as address:
        return address


def test_families_take_turns() -> None:
    addresses = [(V6, "a"), (V6, "b"), (V6, "c"), (V4, "d"), (V4, "e")]
    assert [name for _, name in _interleaved(addresses)] == ["a", "d", "b", "e", "c"]


async def test_second_address_is_used_when_the_first_refuses() -> None:
    with listening() as good:
        connected = await _first_connected(deque([(V4, refusing()), (V4, good)]))
        assert connected.getpeername() == good
        connected.close()


async def test_second_address_is_tried_when_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0.02)
    async with silent() as dead:
        with listening() as good:
            files = len(os.listdir("/proc/self/fd"))
            connected = await _first_connected(deque([(V4, dead), (V4, good)]))
            assert connected.getpeername() == good
            connected.close()
            await asyncio.sleep(0.01)
            assert len(os.listdir("/proc/self/fd")) == files


async def test_losers_that_connected_as_well_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0)
    with listening() as good:
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            (await _first_connected(deque([(V4, good)] * 3))).close()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= files + 1


async def test_all_addresses_refused_is_a_refusal() -> None:
    with pytest.raises(ConnectionRefusedError):
        await _first_connected(deque([(V4, refusing()), (V4, refusing())]))


async def test_cancelled_race_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0.001)
    async with silent() as dead:
        files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_first_connected(deque([(V4, dead)] * 3)), 0.02)
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= files + 1


async def test_unknown_name_is_a_failed_connection() -> None:
    origin = Origin("http://no-such-name.invalid")
    with pytest.raises(ConnectFailed, match="no-such-name.invalid:80 cannot be resolved") as raised:
        await origin.open("GET", b"/", [], b"", Timeouts(10, 1, 1))
    assert not raised.value.refused


# --- names that change --------------------------------------------------------------------------


class Names:
    """A name service of the test's own: one name, and where it leads now."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def resolved(self, host: str, port: int) -> list[tuple[int, object]]:
        self.asked.append(host)
        return [(V6 if ":" in a else V4, (a, port)) for a in self.addresses]


class Hosts:
    """One port on several addresses of this machine; `met` is which of them was connected to."""

    def __init__(self) -> None:
        self.met: list[str] = []
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met.append(writer.get_extra_info("sockname")[0])
        self.open += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await read_request(reader)
                writer.write(HELLO)
        self.open -= 1
        writer.close()


@asynccontextmanager
async def hosts(
    *addresses: str, tls: Certificate | None = None
) -> AsyncIterator[tuple[Hosts, int]]:
    served, port, servers = Hosts(), 0, []
    context = tls.server() if tls else None
    for address in addresses:
        server = await asyncio.start_server(served.serve, address, port, ssl=context)
        port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield served, port
    finally:
        for server in servers:
            server.close()
        await until(lambda: served.open == 0)


async def test_name_that_moved_is_followed_by_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names("127.0.0.1")
    monkeypatch.setattr(upstream_dial, "_resolved", names.resolved)
    async with hosts("127.0.0.1", "127.0.0.2") as (served, port):
        origin = Origin(f"http://api.example.test:{port}", keepalive_s=0.05)
        for _ in range(2):
            assert await read_all(await call(origin)) == b"hello"
        assert (served.met, len(names.asked)) == (["127.0.0.1"], 1)

        names.addresses = ["127.0.0.2"]
        await until(lambda: origin.open_connections == 0)  # the kept one ends by itself
        assert await read_all(await call(origin)) == b"hello"
        assert (served.met, len(names.asked)) == (["127.0.0.1", "127.0.0.2"], 2)
        origin.close()


async def test_each_of_many_connections_resolves_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names("127.0.0.1")
    monkeypatch.setattr(upstream_dial, "_resolved", names.resolved)
    async with hosts("127.0.0.1", "127.0.0.2") as (served, port):
        origin = Origin(f"http://api.example.test:{port}")
        responses = [await call(origin)]  # not closed: the next needs another connection
        names.addresses = ["127.0.0.2"]
        responses.append(await call(origin))
        assert served.met == ["127.0.0.1", "127.0.0.2"]
        assert names.asked == ["api.example.test"] * 2
        for response in responses:
            assert await read_all(response) == b"hello"
        origin.close()


async def test_host_that_went_away_is_followed_in_the_same_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kept connection is dead, so the request goes again; the name leads elsewhere by now."""
    names = Names("127.0.0.1")
    monkeypatch.setattr(upstream_dial, "_resolved", names.resolved)
    kept: list[asyncio.StreamWriter] = []

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await read_request(reader)
            writer.write(HELLO)
            await read_request(reader)
        writer.close()  # without a byte for the second

    async with hosts("127.0.0.2") as (served, port):
        server = await asyncio.start_server(old, "127.0.0.1", port)
        origin = Origin(f"http://api.example.test:{port}", keepalive_s=60)
        assert await read_all(await call(origin)) == b"hello"
        names.addresses = ["127.0.0.2"]
        assert await read_all(await call(origin)) == b"hello"
        assert (len(kept), served.met) == (1, ["127.0.0.2"])
        origin.close()
        server.close()


async def test_real_resolver_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = upstream_dial._resolved, []

    async def counted(host: str, port: int) -> list[tuple[int, object]]:
        asked.append(host)
        return await real(host, port)

    monkeypatch.setattr(upstream_dial, "_resolved", counted)
    async with hosts("127.0.0.1") as (served, port):
        origin = Origin(f"http://localhost:{port}", keepalive_s=0)
        for _ in range(3):
            assert await read_all(await call(origin)) == b"hello"
        assert (asked, served.met) == (["localhost"] * 3, ["127.0.0.1"] * 3)


async def test_name_with_both_families_is_reached_by_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for answering, other in (("127.0.0.1", "::1"), ("::1", "127.0.0.1")):
        monkeypatch.setattr(upstream_dial, "_resolved", Names(other, answering).resolved)
        try:
            async with hosts(answering) as (served, port):
                origin = Origin(f"http://api.example.test:{port}")
                assert await read_all(await call(origin)) == b"hello"
                assert served.met == [answering]
                origin.close()
        except OSError:
            pytest.skip("no IPv6 on this machine")


# --- a connection that nobody waits for any more ------------------------------------------------
# Not a race to be lucky in: the server runs on the same loop, so the turns of the loop are counted
# and every one of them is tried.

TURNS = 400  # a TLS connection through a tunnel takes some 60


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "api.example.test")


@asynccontextmanager
async def route(kind: str, certificate: Certificate) -> AsyncIterator[tuple[Hosts, Origin]]:
    tls = certificate if "tls" in kind else None
    url = "https://api.example.test" if tls else "http://api.example.test"
    async with (
        hosts("127.0.0.1", "127.0.0.2", tls=tls) as (served, port),
        tunnelling(port) as proxy,
    ):
        origin = Origin(f"{url}:{port}", ssl_context=tls.trusted() if tls else None)
        if "tunnel" in kind:
            to_it = Proxy("proxy.example.test", proxy.port, "HTTPS_PROXY")
            origin.peer = replace(origin.peer, proxy=to_it)
        yield served, origin
        await until(lambda: proxy.open_tunnels == 0)


def settled(served: Hosts, origin: Origin, files: int) -> bool:
    now = len(os.listdir("/proc/self/fd"))
    return origin.open_connections == served.open == 0 and now <= files


ROUTES = pytest.mark.parametrize("kind", ["plain", "raced", "tls", "tunnel", "tls tunnel"])


@needs_openssl
@ROUTES
async def test_caller_who_leaves_at_any_moment_of_connecting_leaves_nothing(
    kind: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names("127.0.0.1", "127.0.0.2") if kind == "raced" else Names("127.0.0.1")
    monkeypatch.setattr(upstream_dial, "_resolved", names.resolved)
    async with route(kind, certificate) as (served, origin):
        await read_all(await call(origin))
        drop_idle(origin)
        await until(lambda: origin.open_connections == served.open == 0)
        files = len(os.listdir("/proc/self/fd"))
        for turns in range(TURNS):
            caller = asyncio.ensure_future(call(origin))
            for _ in range(turns):
                await asyncio.sleep(0)
            if caller.done():
                break
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await until(lambda: settled(served, origin, files))
        else:
            raise AssertionError("no call came to its end")
        assert turns > 3
        await read_all(caller.result())
        origin.close()


@needs_openssl
@ROUTES
async def test_time_to_connect_that_ends_at_any_moment_leaves_nothing(
    kind: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the turn in which the connection was made: then it is a timeout, or a connection."""
    names = Names("127.0.0.1", "127.0.0.2") if kind == "raced" else Names("127.0.0.1")
    monkeypatch.setattr(upstream_dial, "_resolved", names.resolved)
    limits: list[asyncio.Timeout] = []
    real = asyncio.timeout

    def timeout(delay: float | None) -> asyncio.Timeout:
        limits.append(real(delay))
        return limits[-1]

    outcomes: list[str] = []
    async with route(kind, certificate) as (served, origin):
        await read_all(await call(origin))
        drop_idle(origin)
        await until(lambda: origin.open_connections == served.open == 0)
        files = len(os.listdir("/proc/self/fd"))
        for turns in range(TURNS):
            limits.clear()
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "timeout", timeout)
                caller = asyncio.ensure_future(call(origin))
                for _ in range(turns):
                    await asyncio.sleep(0)
            if caller.done():
                break
            if limits:
                with suppress(RuntimeError):  # it is over: the connection was made
                    limits[0].reschedule(asyncio.get_running_loop().time())
            try:
                response = await caller
            except ConnectTimeout:
                outcomes.append("timeout")
                assert origin.open_connections == 0
            else:
                outcomes.append("connection")
                assert origin.open_connections == 1
                response.close()
                assert await read_all(await call(origin)) == b"hello"
            drop_idle(origin)
            await until(lambda: settled(served, origin, files))
        else:
            raise AssertionError("no call came to its end")
        await read_all(caller.result())
        origin.close()
    assert "timeout" in outcomes


def drop_idle(origin: Origin) -> None:
    keepalive_s = origin._keepalive_s
    origin.close()
    origin._keepalive_s = keepalive_s
