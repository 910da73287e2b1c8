"""Many tests trust the fake, so each thing that it claims to do is seen here on the wire."""

import asyncio
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.fixtures import free_port
from tests.fakes.model_server import ModelServer
from tests.fakes.process import fake_command
from tests.fakes.wire import (
    DONE,
    End,
    Gate,
    Step,
    answer,
    chat,
    chunk,
    comment,
    crlf,
    error,
    error_event,
    events,
    finish,
    torn,
    usage_chunk,
)

pytestmark = pytest.mark.anyio
HELLO = {"model": "fake", "messages": [{"role": "user", "content": "hello over there"}]}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Client:
    """Enough of HTTP/1.1 to see what the fake writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def post(self, body: bytes, target: str = "/v1/chat/completions", *headers: str) -> None:
        lines = [f"POST {target} HTTP/1.1", "Host: h", *headers, f"Content-Length: {len(body)}"]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def whole(self) -> tuple[int, Any]:
        head = (await self.head()).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split(" ")[1]), json.loads(await self.reader.readexactly(length))

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def stream(self) -> list[bytes]:
        await self.head()
        chunks = []
        while data := await self.chunk():
            chunks.append(data)
        return chunks


@asynccontextmanager
async def connected(server: ModelServer) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def ask(server: ModelServer, body: Any = HELLO) -> tuple[int, Any]:
    async with connected(server) as client:
        client.post(json.dumps(body).encode())
        return await client.whole()


async def test_unscripted_chat_echoes_the_last_message() -> None:
    async with ModelServer() as server:
        status, body = await ask(server, {**HELLO, "max_tokens": 2})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "hello over"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_unscripted_stream_ends_with_usage_and_done_when_asked() -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with ModelServer() as server, connected(server) as client:
        client.post(json.dumps(body).encode())
        chunks = await client.stream()
    assert chunks == [
        chunk("hello"),
        chunk(" over"),
        chunk(" there"),
        finish(),
        usage_chunk(3, 3),
        DONE,
    ]


async def test_request_is_recorded_with_headers_in_order_and_exact_body() -> None:
    async with ModelServer() as server, connected(server) as client:
        client.post(b'{"model" : "x"}', "/v1/any?a=1", "X-One: 1", "x-one: 2", "X-Two:  b ")
        await client.whole()
        received = server.requests[0]
    assert (received.method, received.target) == ("POST", "/v1/any?a=1")
    assert received.body == b'{"model" : "x"}'
    assert received.headers == [
        ("Host", "h"),
        ("X-One", "1"),
        ("x-one", "2"),
        ("X-Two", "b"),
        ("Content-Length", "15"),
    ]
    assert received.answered
    assert not received.left.is_set()


async def test_chunked_request_body_is_put_together() -> None:
    async with ModelServer() as server, connected(server) as client:
        start = b"POST /v1/any HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.writer.write(start + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n")
        await client.whole()
        client.post(b"next")
        await server.arrived(2)
    assert [received.body for received in server.requests] == [b"abcde", b"next"]


async def test_script_is_chosen_by_header_then_queue_then_path() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.named["n"] = chat("named")
        server.queue.extend([chat("first"), None])
        server.paths["/v1/chat/completions"] = chat("path")
        said = []
        for headers in (["x-fake: n"], [], [], []):
            client.post(json.dumps(HELLO).encode(), "/v1/chat/completions", *headers)
            said.append((await client.whole())[1]["choices"][0]["message"]["content"])
    assert said == ["named", "first", "hello over there", "path"]


async def test_probe_takes_nothing_from_the_queue() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(chat("kept"))
        client.writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert [model["id"] for model in (await client.whole())[1]["data"]] == ["fake"]
        assert len(server.queue) == 1


async def test_gate_holds_the_stream_until_opened() -> None:
    gate = Gate()
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(events(chunk("a"), gate, chunk("b"), DONE))
        client.post(b"{}")
        await client.head()
        assert await client.chunk() == chunk("a")
        await gate.reached.wait()
        assert server.in_flight == 1
        gate.open()
        assert [await client.chunk() for _ in range(3)] == [chunk("b"), DONE, b""]
    assert server.in_flight == 0


async def test_torn_event_arrives_in_the_parts_that_were_cut() -> None:
    whole = chunk("né")
    offset = whole.index("é".encode()) + 1
    gate = Gate()
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(events(*torn(whole, offset, gates=[gate])))
        client.post(b"{}")
        await client.head()
        assert await client.chunk() == whole[:offset]
        gate.open()
        assert await client.chunk() == whole[offset:]


async def test_stream_is_byte_exact_with_crlf_comments_error_and_no_done() -> None:
    pieces = (comment("hi"), crlf(chunk("a")), error_event("bad", code=7))
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(events(*pieces, headers=[("x-a", "b")]))
        client.post(b"{}")
        assert await client.stream() == list(pieces)
    assert pieces[1].endswith(b"}\r\n\r\n")
    expected = {"message": "bad", "type": "server_error", "param": None, "code": 7}
    assert json.loads(pieces[2][6:]) == {"error": expected}


async def test_error_status_carries_headers_and_body() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(error(429, "slow down", headers=[("Retry-After", "7")]))
        client.post(b"{}")
        head = await client.head()
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 7\r\n" in head


async def test_raw_script_is_written_as_it_is() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append([b"SSH-2.0\r\n", End.CLOSE])
        client.post(b"{}")
        assert await client.reader.read() == b"SSH-2.0\r\n"


@pytest.mark.parametrize(
    "script",
    [[End.RESET], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal", End.RESET]],
    ids=["before the head", "in the body"],
)
async def test_reset_is_a_reset(script: list[Step]) -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append(script)
        client.post(b"{}")
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1000)
        assert not server.requests[0].left.is_set()


async def test_close_after_a_whole_answer_ends_a_kept_alive_connection() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append([*chat(), End.CLOSE])
        client.post(b"{}")
        assert (await client.whole())[0] == 200
        assert await client.reader.read() == b""


async def test_idle_connections_are_closed_on_command_and_busy_ones_stay() -> None:
    gate = Gate()
    async with ModelServer() as server, connected(server) as idle, connected(server) as busy:
        idle.post(json.dumps(HELLO).encode())
        await idle.whole()
        server.queue.append([gate, *chat()])
        busy.post(b"{}")
        await gate.reached.wait()
        server.close_idle()
        assert await idle.reader.read() == b""
        gate.open()
        assert (await busy.whole())[0] == 200


async def test_client_that_leaves_is_noticed_at_once() -> None:
    async with ModelServer() as server:
        async with connected(server) as client:
            server.queue.append(events(chunk("a"), End.STALL))
            client.post(b"{}")
            await client.head()
            received = await server.arrived(1)
            assert received.sent > 0
        await asyncio.wait_for(received.left.wait(), 5)
        assert received.left_s is not None
        assert received.left_s >= received.begun_s
        assert not received.answered
        assert server.in_flight == 0


async def test_in_flight_is_counted_over_connections() -> None:
    gate = Gate()
    async with ModelServer() as server:
        server.queue.extend([[gate, *chat()]] * 3)
        asks = [asyncio.ensure_future(ask(server)) for _ in range(3)]
        await server.arrived(3)
        assert server.in_flight == 3
        gate.open()
        assert {status for status, _ in await asyncio.gather(*asks)} == {200}
    assert server.most_in_flight == 3
    assert server.connections == 3


async def test_dropped_connections_and_closed_port_look_like_a_dead_process() -> None:
    async with ModelServer() as server, connected(server) as client:
        server.queue.append([End.STALL])
        client.post(b"{}")
        await server.arrived(1)
        server.stop_listening()
        server.drop_connections()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, server.port)


async def test_key_is_asked_for() -> None:
    async with ModelServer(key="k") as server, connected(server) as client:
        client.post(b"{}")
        assert (await client.whole())[0] == 401
        client.post(json.dumps(HELLO).encode(), "/v1/chat/completions", "authorization: Bearer k")
        assert (await client.whole())[0] == 200


async def test_large_answer_to_a_slow_reader_is_whole() -> None:
    body = b"x" * 5_000_000
    async with ModelServer() as server, connected(server) as client:
        server.queue.append([*answer(b"[]"), body, End.CLOSE])
        client.post(b"{}")
        await client.head()
        assert await client.reader.read() == b"[]" + body


# As a process


@contextmanager
def running(*options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in fake_command(*options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd="/") as process:
        try:
            yield process, port
        finally:
            process.kill()


async def status_of(port: int, target: str = "/v1/models", body: object = None) -> int:
    data = None if body is None else json.dumps(body).encode()

    def fetch() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", data) as answered:
                return int(answered.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code

    while True:
        try:
            return await asyncio.to_thread(fetch)
        except urllib.error.URLError:
            await asyncio.sleep(0.01)  # not listening yet


async def test_process_serves_logs_and_leaves_on_sigterm() -> None:
    with running("--log", "loading", "--model", "m") as (process, port):
        assert await status_of(port) == 200
        process.terminate()
        assert await asyncio.to_thread(process.wait, 5) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b"loading\n"


async def test_process_that_is_never_ready_listens_and_says_503() -> None:
    with running("--never-ready") as (_, port):
        assert await status_of(port) == 503


async def test_process_becomes_ready_later() -> None:
    with running("--ready-after", "0.5") as (_, port):
        assert await status_of(port) == 503
        async with asyncio.timeout(5):
            while await status_of(port) == 503:
                continue


async def test_process_crashes_at_load_after_its_log_lines() -> None:
    with running("--log", "CUDA out of memory", "--crash-at-load", "7") as (process, _):
        assert await asyncio.to_thread(process.wait, 5) == 7
        assert process.stderr is not None
        assert process.stderr.read() == b"CUDA out of memory\n"


async def test_process_crashes_on_the_nth_post() -> None:
    with running("--crash-on", "2") as (process, port):
        assert await status_of(port) == 200
        assert await status_of(port, "/v1/chat/completions", HELLO) == 200
        with pytest.raises(ConnectionError):
            await status_of(port, "/v1/chat/completions", HELLO)
        assert await asyncio.to_thread(process.wait, 5) == 3


async def test_process_ignores_sigterm_when_told() -> None:
    with running("--ignore-sigterm") as (process, port):
        assert await status_of(port) == 200
        process.send_signal(signal.SIGTERM)
        assert await status_of(port) == 200
        assert process.poll() is None


async def test_process_reads_a_script(tmp_path: Path) -> None:
    script = {
        "queue": [None, {"answer": {"error": {"message": "x"}}, "status": 418}],
        "paths": {"/health": {"raw": ["HTTP/1.1 204 No\r\n\r\n", 0.01, {"end": "close"}]}},
        "named": {"s": {"events": ["data: 1\n\n"]}},
    }
    (tmp_path / "script.json").write_text(json.dumps(script))
    with running("--script", str(tmp_path / "script.json")) as (_, port):
        assert await status_of(port, "/health") == 204
        assert await status_of(port, "/v1/chat/completions", HELLO) == 200
        assert await status_of(port, "/v1/chat/completions", HELLO) == 418


def test_process_starts_a_child_of_its_own() -> None:
    with running("--with-child", "--never-listen") as (process, _):
        assert process.stderr is not None
        child = int(process.stderr.readline().split()[1])
        assert Path(f"/proc/{child}/stat").read_text().split()[3] == str(process.pid)
        os.kill(child, signal.SIGKILL)
