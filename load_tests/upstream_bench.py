"""CPU time of the relay's transport, per request and per streamed chunk, beside httpx2.

    python load_tests/upstream_bench.py [--requests 20000] [--streams 200]

A canned raw server runs in another process, on another core where there is one. Both clients run
in this process, one after the other, on uvloop. Takes about a minute.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx2
import uvloop

from backends.upstream import Origin, Timeouts

CHUNKS = 50
PACE_S = 0.02
PLAIN = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: canned\r\n"
    b"content-type: application/json\r\ncontent-length: 400\r\n\r\n" + b"x" * 400
)
STREAM = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: canned\r\n"
    b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENT = b"data: " + b"y" * 180 + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"z" * 400 + b'"}]}'
HEADERS = [
    ("content-type", "application/json"),
    ("accept", "*/*"),
    ("user-agent", "bench"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    ("x-request-id", "0123456789abcdef"),
]
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS]
TIMEOUTS = Timeouts(5, 300, 60)

Call = Callable[[str], Awaitable[int]]  # a path; how many pieces came


class Canned(asyncio.Protocol):
    """Answers when the end of BODY has arrived; parses nothing."""

    def __init__(self) -> None:
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._tail += data
        if not self._tail.endswith(BODY[-200:]):
            return
        if self._tail.startswith(b"POST /v1/stream"):
            self._transport.write(STREAM)
            asyncio.get_running_loop().call_later(PACE_S, self._next, CHUNKS)
        else:
            self._transport.write(PLAIN)
        self._tail = b""

    def _next(self, left: int) -> None:
        if left == 0:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(CHUNK)
        asyncio.get_running_loop().call_later(PACE_S, self._next, left - 1)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def cpu_us(call: Call, path: str, times: int, together: int) -> tuple[float, int]:
    """CPU microseconds of all calls, and the pieces they brought."""
    left = times
    pieces = 0

    async def worker() -> None:
        nonlocal left, pieces
        while left > 0:
            left -= 1
            came = await call(path)  # `pieces += await` would read before and write after
            pieces += came

    start = time.process_time()
    await asyncio.gather(*(worker() for _ in range(together)))
    return (time.process_time() - start) * 1e6, pieces


def own(origin: Origin) -> Call:
    async def call(path: str) -> int:
        target = origin.target_prefix + path.encode()
        response = await origin.open("POST", target, RAW_HEADERS, BODY, TIMEOUTS)
        try:
            pieces = 0
            while await response.read():
                pieces += 1
            return pieces
        finally:
            response.close()

    return call


def peer(client: httpx2.AsyncClient) -> Call:
    async def call(path: str) -> int:
        async with client.stream("POST", path, headers=HEADERS, content=BODY) as response:
            return sum([1 async for _ in response.aiter_raw()])

    return call


async def measure(call: Call, requests: int, streams: int) -> list[float]:
    await cpu_us(call, "/plain", 500, 10)
    one, _ = await cpu_us(call, "/plain", requests // 4, 1)
    many, _ = await cpu_us(call, "/plain", requests, 100)
    await cpu_us(call, "/stream", streams, streams)
    stream, pieces = await cpu_us(call, "/stream", 2 * streams, streams)
    if pieces < 0.9 * 2 * streams * CHUNKS:
        raise SystemExit(f"only {pieces} pieces came one by one: the machine is too busy")
    return [one / (requests // 4), many / requests, stream / pieces]


async def run(port: int, requests: int, streams: int) -> None:
    url = f"http://127.0.0.1:{port}/v1"
    origin = Origin(url)
    mine = await measure(own(origin), requests, streams)
    origin.close()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        theirs = await measure(peer(client), max(requests // 10, 400), streams)
    rows = ["plain request, one at a time", "plain request, 100 at a time"]
    rows.append(f"chunk, {streams} streams at {PACE_S * 1000:.0f} ms")
    print(f"{'CPU, us':<34}{'own':>8}{'httpx2':>9}{'ratio':>8}")
    for row, a, b in zip(rows, mine, theirs, strict=True):
        print(f"{row:<34}{a:>8.1f}{b:>9.1f}{b / a:>7.1f}x")


def pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--streams", type=int, default=200)
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        pin(1)
        uvloop.run(serve())
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            pin(0)
            uvloop.run(run(port, chosen.requests, chosen.streams))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
