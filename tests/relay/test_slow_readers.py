"""Callers who stop reading: servers are held back, memory is bounded, others are served."""

import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, chunk, head
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import chat, model, settles, yaml
from tests.relay.callers import Caller, ask, chunks, request
from tests.relay.servers import raw_server, read_head

PIECE = chunk("é" * 5_000)  # 10 KB
PIECES = 250
STREAM = PIECE * PIECES + DONE
MEDIA = b"\0\xff" * (len(STREAM) // 2)
EACH = 800_000  # bytes of memory for one stopped reader; 190,000 to 470,000 were measured
SEND_BUFFER = 16 * 1024  # small, so that the system between server and gateway holds little


class Source:
    """Gives everybody 2.5 MB, as fast as it is taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.done = 0
        self._lock = threading.Lock()
        self._stream = [
            head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]),
            *[chunks(PIECE)[:-5]] * PIECES,
            chunks(DONE),
        ]
        length = str(len(MEDIA))
        self._media = [
            head(200, [("content-type", "audio/wav"), ("content-length", length)]),
            MEDIA,
        ]

    def serve(self, connection: socket.socket) -> None:
        while True:
            start = read_head(connection)
            if start.startswith(b"GET"):  # the gateway's check
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                continue
            length = int(start.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            while length:
                length -= len(connection.recv(length))
            for step in self._media if b"/audio/" in start else self._stream:
                view = memoryview(step)
                for place in range(0, len(step), 1 << 14):
                    connection.sendall(view[place : place + (1 << 14)])
                    self._count(len(view[place : place + (1 << 14)]), 0)
            self._count(0, 1)

    def _count(self, sent: int, done: int) -> None:
        with self._lock:
            self.sent += sent
            self.done += done


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    """Two descriptors a reader here, and as many in the gateway, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4_000:
        pytest.skip("too few open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


@pytest.fixture(scope="module")
def crowded(
    many_files: None, start_gateway: StartGateway, fake_servers: FakeServers, source: Source
) -> Iterator[GatewayProcess]:
    with raw_server(source.serve, send_buffer=SEND_BUFFER) as url:
        big = model([url], keepalive={"grace": "1h"})
        yield start_gateway(yaml({"big": big, "small": model(fake_servers.urls[:1])}))


def asked(stream: bool) -> bytes:
    if stream:
        return request(chat("big", stream=True))
    return request({"model": "big", "input": "x"}, path="/v1/audio/speech")


@pytest.mark.parametrize("readers", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_stopped_readers_hold_their_servers_back_and_then_get_everything(
    crowded: GatewayProcess, fakes: FakeServers, source: Source, readers: int
) -> None:
    process = psutil.Process(crowded.process.pid)
    ask(crowded, asked(True))
    eventually(lambda: source.done > 0)
    source.sent = source.done = 0
    before = process.memory_info().rss
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(crowded, 120, narrow=True)) for _ in range(readers)]
        for number, caller in enumerate(callers):
            caller.send(asked(number % 2 == 0))
        eventually(lambda: crowded.model("big")["in_flight"] == readers, 60)
        said = -1

        def stopped() -> bool:
            nonlocal said
            was, said = said, source.sent
            assert ask(crowded, request(chat("small"))).status == 200
            return was == said

        eventually(stopped, 60, "the server is held back")
        grown = process.memory_info().rss - before
        part = source.sent / (readers * len(STREAM))
        print(f"{grown / readers:.0f} bytes a reader, {part:.0%} were sent")
        assert part < 0.7
        assert source.done < readers / 5  # the system's buffers grow as they like
        assert grown < 10_000_000 + EACH * readers
        for _ in range(20):
            assert ask(crowded, request(chat("small"))).status == 200
        half = readers // 2
        for caller in callers[half:]:  # some leave instead
            caller.socket.close()
        eventually(lambda: crowded.model("big")["in_flight"] == half, 30, "who left is gone")
        with ThreadPoolExecutor(4) as pool:
            for number, got in enumerate(pool.map(Caller.answer, callers[:half])):
                assert got.status == 200
                assert got.body == (MEDIA if number % 2 else STREAM), number
    settles(crowded, "big")
    assert process.memory_info().rss - before < 10_000_000 + EACH * readers


def test_reader_who_stops_again_and_again_gets_everything(
    crowded: GatewayProcess, source: Source
) -> None:
    """A little at a time: the server is stopped and let on again for each."""
    with Caller(crowded, narrow=True) as caller:
        caller.send(asked(True))
        got = bytearray()
        while not got.endswith(b"0\r\n\r\n"):
            got += caller.socket.recv(7_000)
    _, _, coded = bytes(got).partition(b"\r\n\r\n")
    body = bytearray()
    while coded:
        size, _, coded = coded.partition(b"\r\n")
        body += coded[: int(size, 16)]
        coded = coded[int(size, 16) + 2 :]
    assert bytes(body) == STREAM


def test_stopped_reader_is_no_idle_server(
    start_gateway: StartGateway, many_files: None, source: Source
) -> None:
    """`timeouts.idle` is about a server's silence, and this one would go on."""
    with raw_server(source.serve, send_buffer=SEND_BUFFER) as url:
        gateway = start_gateway(yaml({"big": model([url], timeouts={"idle": "300ms"})}))
        with Caller(gateway, narrow=True) as caller:
            caller.send(asked(True))
            said = -1

            def stopped() -> bool:
                nonlocal said
                was, said = said, source.sent
                return was == said

            eventually(stopped)
            threading.Event().wait(1.0)
            assert caller.answer().body == STREAM
