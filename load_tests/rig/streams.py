"""Streaming load: `python -m load_tests.rig.streams PORT STREAMS PACE_MS CHUNKS SECONDS`.

Opens STREAMS streams and counts tokens and the gaps between reads; parses nothing. Prints a line of
JSON when every stream runs, and another when all have ended, or SECONDS later.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import cast

import uvloop

from load_tests.rig.calls import post, stream_body
from load_tests.rig.upstream import TOKEN

MARK = TOKEN.encode()
OPENING_S = 40.0  # the longest wait for all streams to run
AT_A_TIME = 50
LOOKS_EVERY_S = 0.02


class Stream(asyncio.Protocol):
    """One call; what it saw."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._tail = b""
        self.status = b""
        self.chunks = 0
        self.last_at_s = 0.0
        self.widest_gap_s = 0.0
        self.whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12]
        came = data.count(MARK)
        if came:
            now_s = time.monotonic()
            if not self.last_at_s:
                self._load.running += 1
            elif now_s - self.last_at_s > self.widest_gap_s:
                self.widest_gap_s = now_s - self.last_at_s
            self.last_at_s = now_s
            self.chunks += came
        tail = self._tail + data[-32:]
        if b"[DONE]" in tail:
            self.whole = True
        if tail.endswith(b"\n0\r\n\r\n"):
            self.transport.close()
        self._tail = tail[-32:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.ended += 1


class Load:
    def __init__(self, port: int, streams: int, pace_ms: int, chunks: int) -> None:
        self.request = post(stream_body(pace_ms, chunks))
        self.running = 0
        self.ended = 0
        self.streams: list[Stream] = []
        self._port = port
        self._count = streams

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for begun in range(0, self._count, AT_A_TIME):
            calls = (
                loop.create_connection(self._new, "127.0.0.1", self._port)
                for _ in range(min(AT_A_TIME, self._count - begun))
            )
            await asyncio.gather(*calls, return_exceptions=True)
        await self._until(lambda: self.running + self.ended >= len(self.streams), OPENING_S)

    async def ended_all(self, within_s: float) -> None:
        await self._until(lambda: self.ended >= len(self.streams), within_s)

    async def _until(self, so: Callable[[], bool], within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        while not so() and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOKS_EVERY_S)

    def _new(self) -> Stream:
        stream = Stream(self)
        self.streams.append(stream)
        return stream

    def say(self) -> None:
        line = {
            "at_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "running": self.running,
            "ended": self.ended,
            "whole": sum(s.whole and s.status == b"200" for s in self.streams),
            "chunks": sum(s.chunks for s in self.streams),
            "widest_gap_s": max((s.widest_gap_s for s in self.streams), default=0.0),
        }
        print(json.dumps(line), flush=True)


async def drive(load: Load, seconds: float) -> None:
    await load.open()
    load.say()
    await load.ended_all(seconds)
    load.say()
    for stream in load.streams:
        stream.transport.abort()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "streams", "pace_ms", "chunks"):
        parser.add_argument(name, type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    load = Load(given.port, given.streams, given.pace_ms, given.chunks)
    uvloop.run(drive(load, given.seconds))


if __name__ == "__main__":
    main()
