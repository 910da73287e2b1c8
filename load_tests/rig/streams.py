"""Streaming load: `python -m load_tests.rig.streams PORT STREAMS PACE_MS CHUNKS SECONDS`.

Opens STREAMS streams and counts tokens and the gaps between reads; parses nothing. Prints a line of
JSON when every stream runs, one SECONDS later, and with CHUNKS that can end one when all ended.
"""

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

from load_tests.rig.calls import post, stream_body
from load_tests.rig.upstream import TOKEN

MARK = TOKEN.encode()
OPENING_S = 20.0  # the longest wait for all streams to run
AT_A_TIME = 50


class Stream(asyncio.Protocol):
    """One call; what it saw."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self.status = b""
        self.chunks = 0
        self.last_at = 0.0
        self.widest_gap_s = 0.0
        self.whole = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12]
        came = data.count(MARK)
        if came:
            now = time.monotonic()
            if self.last_at:
                gap_s = now - self.last_at
                if gap_s > self.widest_gap_s:
                    self.widest_gap_s = gap_s
            else:
                self._load.running += 1
            self.last_at = now
            self.chunks += came
        elif b"[DONE]" in data or b"[DONE]" in self._tail + data:
            self.whole = True
        self._tail = data[-16:]
        if data.endswith(b"0\r\n\r\n"):
            self.transport.close()

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
        for _ in range(0, self._count, AT_A_TIME):
            await asyncio.gather(
                *(
                    loop.create_connection(self._new, "127.0.0.1", self._port)
                    for _ in range(min(AT_A_TIME, self._count - len(self.streams)))
                )
            )
        deadline_s = time.monotonic() + OPENING_S
        while self.running + self.ended < self._count and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)

    def _new(self) -> Stream:
        stream = Stream(self)
        self.streams.append(stream)
        return stream

    def say(self, event: str) -> None:
        gaps = sorted(s.widest_gap_s for s in self.streams)
        line = {
            "event": event,
            "at_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "running": self.running,
            "ended": self.ended,
            "whole": sum(s.whole for s in self.streams),
            "refused": sum(s.status != b"200" for s in self.streams),
            "chunks": sum(s.chunks for s in self.streams),
            "gaps_s": [round(g, 4) for g in gaps],
        }
        print(json.dumps(line), flush=True)


async def drive(load: Load, seconds: float) -> None:
    await load.open()
    load.say("steady")
    await asyncio.sleep(seconds)
    load.say("done")
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
