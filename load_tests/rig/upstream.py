"""A model server that costs little: `python -m load_tests.rig.upstream PORT`.

A request whose model is `pace-20ms` and that asks for a stream gets `max_tokens` chunks of one
token each, one every 20 ms; any other chat request gets one canned answer. All streams of a pace
share one wheel that turns a slot a millisecond, so a chunk costs its write and little else.
"""

import asyncio
import itertools
import re
import sys
from typing import cast

import uvloop

TOKEN = "~"  # stands once in each chunk and nowhere else, so that torn reads count right
SLOT_S = 0.001
MOST_BODY_KEPT = 65_536
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PACE = re.compile(rb'"pace-(\d+)ms"')
TOKENS = re.compile(rb'"max_(?:completion_)?tokens": *(\d+)')
DEFAULT_TOKENS = 64

CREATED = '"id":"chatcmpl-0123456789abcdef","created":1790000000,"model":"m"'
USAGE = '"usage":{"prompt_tokens":12,"completion_tokens":64,"total_tokens":76}'
WORDS = "The lamp is lit at dusk and put out at dawn, and nobody asks who does it. " * 4


def answer(body: str, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def event(choices: str, more: str = "") -> bytes:
    text = f'data: {{{CREATED},"object":"chat.completion.chunk","choices":[{choices}]{more}}}\n\n'
    return b"%x\r\n%b\r\n" % (len(text), text.encode())


PLAIN = answer(
    f'{{{CREATED},"object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant",'
    f'"content":"{WORDS}"}},"logprobs":null,"finish_reason":"stop"}}],{USAGE}}}'
)
MODELS = answer(
    '{"object":"list","data":['
    + ",".join(
        f'{{"id":"{name}","object":"model","created":1790000000,"owned_by":"rig"}}'
        for name in ("plain", "pace-20ms", "pace-1000ms")
    )
    + "]}"
)
OTHERS = answer('{"status":"ok","model_path":"plain","is_generation":true}')
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DELTA = '{"index":0,"delta":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":%s}'
# Of different words: LiteLLM ends a stream in which one chunk comes a hundred times.
CHUNKS = [event(DELTA % (f" {word}{TOKEN}", "null")) for word in WORDS.split()[:16]]
LAST = event(DELTA % ("", '"stop"'))
USED = event("", f",{USAGE}")
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Wheel:
    """Writes a chunk to every stream of one pace once a turn, spread evenly over the turn."""

    def __init__(self, pace_ms: int) -> None:
        self._slots: list[set[Connection]] = [set() for _ in range(pace_ms)]
        self._next_slot = itertools.cycle(range(pace_ms))
        self._loop = asyncio.get_running_loop()
        self._turned = 0
        self._begun = self._loop.time()
        self._timer = self._loop.call_later(SLOT_S, self._turn)

    def stop(self) -> None:
        self._timer.cancel()

    def add(self, connection: "Connection") -> set["Connection"]:
        slot = self._slots[next(self._next_slot)]
        slot.add(connection)
        return slot

    def _turn(self) -> None:
        due = int((self._loop.time() - self._begun) / SLOT_S)
        for turn in range(self._turned, due):
            for connection in tuple(self._slots[turn % len(self._slots)]):
                connection.write_next()
        self._turned = max(due, self._turned)
        self._timer = self._loop.call_later(SLOT_S, self._turn)


class Connection(asyncio.Protocol):
    wheels: dict[int, Wheel] = {}

    def __init__(self) -> None:
        self._head = b""
        self._missing = 0  # bytes of the body that have not come yet
        self._body = b""
        self._left = 0
        self._usage = b""
        self._slot: set[Connection] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if len(self._body) < MOST_BODY_KEPT:
                self._body += data
            if self._missing <= 0:
                self._reply()
            return
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        if head.startswith(b"GET"):
            self._transport.write(MODELS if b"/models" in head[:64] else OTHERS)
            return
        length = LENGTH.search(head)
        if length is None:
            raise ValueError(f"the rig's upstream reads no body without a length: {head!r}")
        self._missing = int(length[1]) - len(body)
        self._body = body
        if self._missing <= 0:
            self._reply()

    def _reply(self) -> None:
        """To the whole request; a pipelining caller is nobody that we test."""
        self._missing = 0
        pace = PACE.search(self._body) if b'"stream"' in self._body else None
        if pace is None:
            self._transport.write(PLAIN)
            return
        tokens = TOKENS.search(self._body)
        self._left = int(tokens[1]) if tokens else DEFAULT_TOKENS
        self._usage = USED if b'"include_usage"' in self._body else b""
        self._transport.write(STREAM_HEAD)
        pace_ms = int(pace[1])
        wheel = self.wheels.get(pace_ms)
        if wheel is None:
            wheel = self.wheels[pace_ms] = Wheel(pace_ms)
        self._slot = wheel.add(self)

    def write_next(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(CHUNKS[self._left & 15])
        else:
            self._leave()
            self._transport.write(LAST + self._usage + DONE)

    def _leave(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
