"""Fake model servers on an event loop of their own thread, for tests of either colour.

All of them take their answers from one queue, so a test scripts attempts and not servers: the
first attempt gets the first script, wherever the gateway sends it.
"""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import AsyncExitStack
from types import TracebackType

from tests.fakes.model_server import ModelServer, Received
from tests.fakes.wire import Gate, Script
from tests.gateway import eventually


class FakeServers:
    def __init__(self, count: int) -> None:
        self._count = count
        self._queue: deque[Script | None] = deque()
        self._paths: dict[str, Script] = {}
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._started: Future[list[ModelServer]] = Future()
        self._thread = threading.Thread(target=self._run, name="fake servers")

    def __enter__(self) -> "FakeServers":
        self._thread.start()
        self.servers = self._started.result(10)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def posts(self) -> list[Received]:
        """Every POST since the last reset, in order of arrival."""
        posts = [request for server in self.servers for request in server.posts]
        return sorted(posts, key=lambda request: request.begun_s)

    @property
    def requests(self) -> list[Received]:
        requests = [request for server in self.servers for request in server.requests]
        return sorted(requests, key=lambda request: request.begun_s)

    @property
    def last(self) -> Received:
        return self.posts[-1]

    def script(self, *scripts: Script | None) -> None:
        """What the next POSTs are answered with; None is the built-in answer."""
        self._queue.extend(scripts)

    def answer_path(self, target: str, script: Script) -> None:
        """What requests for this path and query are answered with, whatever their method."""
        self._paths[target] = script

    def arrived(self, count: int = 1) -> Received:
        """The `count`-th POST since the last reset, once it is there."""
        eventually(lambda: len(self.posts) >= count, what=f"POST number {count}")
        return self.posts[count - 1]

    def open(self, gate: Gate) -> None:
        self._loop.call_soon_threadsafe(gate.open)

    def reached(self, gate: Gate) -> None:
        eventually(gate.reached.is_set, what="the script's gate")

    def drop_connections(self) -> None:
        """Reset every connection, as if the servers had died."""
        for server in self.servers:
            self._loop.call_soon_threadsafe(server.drop_connections)

    def reset(self) -> None:
        self._queue.clear()
        self._paths.clear()
        for server in self.servers:
            server.requests.clear()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(ModelServer()) for _ in range(self._count)]
            for server in servers:
                server.queue, server.paths = self._queue, self._paths
            self._started.set_result(servers)
            await self._end.wait()
