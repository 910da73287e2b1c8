"""An OpenAI model server that does exactly what a test tells it, down to the byte and the reset.

    gate = Gate()
    async with ModelServer() as server:
        server.queue.append(events(chunk("Hel"), gate, chunk("lo"), finish(), DONE))
        ...
        await gate.reached.wait()
        gate.open()

What nobody scripted is answered like a small real server: the model's answer is the caller's last
message, a word a token. `tests/fakes/process.py` runs it as a process.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from tests.fakes.sleeper import NONSENSE, Sleeper
from tests.fakes.wire import (
    DONE,
    End,
    Gate,
    Script,
    Step,
    answer,
    chat_body,
    chunk,
    error,
    events,
    finish,
    usage_chunk,
)

CREATED = 1_700_000_000


@dataclass
class Received:
    """One request as it came off the wire, and what became of it."""

    method: str
    target: str
    headers: list[tuple[str, str]]  # in order, in the sender's own letters
    body: bytes
    connection: int  # which connection it came on, counted from 0
    begun_s: float
    sent: int = 0  # bytes of the answer written so far
    answered: bool = False  # the script ran to its end
    left: asyncio.Event = field(default_factory=asyncio.Event)  # client closed before that
    left_s: float | None = None

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ModelServer:
    """Chooses per request: the script that header `x-fake` names, else the next of `queue`
    (POST only, so that probes take none), else `paths[target]`, else the built-in answers.
    """

    def __init__(
        self,
        model: str = "fake",
        *,
        key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        pace_s: float = 0.0,
    ) -> None:
        self.model = model
        self.key = key
        self.host = host
        self.port = port
        self.pace_s = pace_s
        self.ready = True  # False: /v1/models says 503, like llama.cpp while it loads
        self.queue: deque[Script | None] = deque()  # None: the built-in answer
        self.paths: dict[str, Script] = {}
        self.named: dict[str, Script] = {}
        self.sleeper: Sleeper | None = None  # for a server that can sleep
        self.requests: list[Received] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections = 0  # accepted so far
        self.open_connections: set[_Connection] = set()
        self._arrival = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> "ModelServer":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_listening()
        tasks = [connection.task for connection in self.open_connections]
        self.drop_connections()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        """New connections are refused from now on; open ones live."""
        if self._server is not None:
            self._server.close()

    def close_idle(self) -> None:
        """Close the connections that are kept alive, as a server does after its time-out."""
        for connection in [c for c in self.open_connections if c.current is None]:
            connection.transport.close()

    def drop_connections(self) -> None:
        """Reset every connection, as the death of the process does."""
        for connection in list(self.open_connections):
            connection.reset()

    @property
    def posts(self) -> list[Received]:
        return [request for request in self.requests if request.method == "POST"]

    async def arrived(self, count: int) -> Received:
        """Waits for the `count`-th POST (from 1) and returns it."""
        while len(self.posts) < count:
            self._arrival.clear()
            await self._arrival.wait()
        return self.posts[count - 1]

    def begin(self, received: Received) -> Script:
        self.requests.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._arrival.set()
        if self.sleeper is not None:
            script = self.sleeper.route(received.method, received.target, received.body)
            if script is not None:
                return script
        name = received.header("x-fake")
        if name is not None:
            return self.named[name]
        if received.method == "POST" and self.queue:
            return self.queue.popleft() or _built_in(self, received)
        return self.paths.get(received.target) or _built_in(self, received)


class _Connection(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.current: Received | None = None
        self._closed_here = False
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.number = self.server.connections
        self.server.connections += 1
        self.server.open_connections.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open_connections.discard(self)
        self.task.cancel()  # a script may be waiting at a gate

    def reset(self) -> None:
        self._closed_here = True
        peer = self.transport.get_extra_info("socket")
        with suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _serve(self) -> None:
        with suppress(asyncio.CancelledError):
            while not self.transport.is_closing():
                received = await self._request()
                await self._answer(received)
                if (received.header("connection") or "").lower() == "close":
                    self.transport.close()

    async def _answer(self, received: Received) -> None:
        self.current = received
        script = self.server.begin(received)
        try:
            for step in script:
                await self._take(step, received)
            received.answered = True
        finally:
            self.server.in_flight -= 1
            self.current = None
            if not received.answered and not self._closed_here:
                received.left_s = asyncio.get_running_loop().time()
                received.left.set()

    async def _take(self, step: Step, received: Received) -> None:
        match step:
            case bytes():
                await self._writable.wait()
                self.transport.write(step)
                received.sent += len(step)
            case Gate():
                await step.pass_through()
            case End.CLOSE:
                self._closed_here = True
                self.transport.close()
            case End.RESET:
                self.reset()
            case End.STALL:
                await asyncio.Event().wait()
            case End.CRASH:
                os._exit(3)
            case _:
                await asyncio.sleep(step)

    async def _request(self) -> Received:
        start = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = start[0].split(" ", 2)
        pairs = [line.partition(":") for line in start[1:] if line]
        headers = [(name, value.strip()) for name, _, value in pairs]
        now = asyncio.get_running_loop().time()
        received = Received(method, target, headers, b"", self.number, now)
        if (received.header("transfer-encoding") or "").lower() == "chunked":
            received.body = await self._chunked_body()
        else:
            received.body = await self._exactly(int(received.header("content-length") or 0))
        return received

    async def _chunked_body(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += (await self._exactly(size + 2))[:-2]
        while await self._until(b"\r\n") != b"\r\n":
            continue
        return body

    async def _until(self, mark: bytes) -> bytes:
        while (place := self._buffer.find(mark)) < 0:
            await self._more()
        return await self._exactly(place + len(mark))

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _more(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()


def _built_in(server: ModelServer, received: Received) -> Script:
    path = received.target.partition("?")[0]
    if server.key is not None and received.header("authorization") != f"Bearer {server.key}":
        return error(401, "wrong key", type="authentication_error", code="invalid_api_key")
    if not server.ready:
        return error(503, "Loading model", type="unavailable_error")
    if received.method == "GET":
        return _built_in_get(server, path)
    if path.endswith("/chat/completions"):
        return _echo(server, received.json)
    if path.endswith("/responses"):
        return answer({"id": f"resp_{os.getpid()}", "object": "response", "status": "completed"})
    if path.endswith("/embeddings"):
        item = {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}
        return answer({"object": "list", "model": server.model, "data": [item]})
    return answer({"object": "fake", "target": received.target, "bytes": len(received.body)})


def _built_in_get(server: ModelServer, path: str) -> Script:
    if path.endswith("/models"):
        model = {"id": server.model, "object": "model", "created": CREATED, "owned_by": "fake"}
        return answer({"object": "list", "data": [model]})
    if path.endswith(f"/responses/resp_{os.getpid()}"):
        return answer({"id": f"resp_{os.getpid()}", "object": "response", "status": "completed"})
    if path == "/health":
        return answer({"status": "ok"})
    return error(404, f"no {path} here", type="not_found_error")


def _echo(server: ModelServer, body: Mapping[str, Any]) -> Script:
    """The last message comes back, a word a token, at the server's pace."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    words = str(body["messages"][-1]["content"]).split(" ")
    if server.sleeper is not None and server.sleeper.talks_nonsense:
        words = [NONSENSE]
    said = words[:limit]
    usage = (sum(len(str(m["content"]).split(" ")) for m in body["messages"]), len(said))
    pauses: list[Step] = [server.pace_s] if server.pace_s else []
    instance = [("x-fake-instance", str(os.getpid()))]
    if not body.get("stream"):
        whole = chat_body(" ".join(said), server.model, usage)
        return [*pauses * len(said), *answer(whole, headers=instance)]
    steps: list[Step] = []
    for number, word in enumerate(said):
        steps += [*pauses, chunk(word if number == 0 else f" {word}", server.model)]
    steps.append(finish("stop" if len(said) == len(words) else "length", server.model))
    if (body.get("stream_options") or {}).get("include_usage"):
        steps.append(usage_chunk(*usage, model=server.model))
    return events(*steps, DONE, headers=instance)


if __name__ == "__main__":
    from tests.fakes.process import main

    sys.exit(main())
