"""The response to one caller: its head, its body, and comments that keep a waiting stream awake.

Holds the state of one response. Before the head is out an error has its true status; after it, a
stream ends with an error event, and anything else is cut, so that no client takes it for whole.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from proxy import wire
from router.errors import GatewayError
from router.request import Dialect, Headers

Send = Callable[[Any], Awaitable[None]]


class Responder:
    """Writes one response. `begun`: its head is out; `ended`: so is its last byte."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.dialect: Dialect = "other"
        self.about: Headers = []  # for what the gateway says itself, once it knows of what
        self.begun = False
        self.ended = False
        self._send = send
        self._id = (b"x-request-id", request_id.encode())
        self._request_id = request_id
        self._stream = False
        self._timer: asyncio.TimerHandle | None = None
        self._comments: asyncio.Task[None] | None = None

    async def begin(self, status: int, headers: Headers) -> None:
        self._stream = any(n == b"content-type" and b"event-stream" in v for n, v in headers)
        self.begun = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, self._id]}
        )

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": chunk})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self.begin(status, [*headers, length])
        await self.end(body)

    async def fail(self, error: GatewayError, *, resumable: bool = True) -> None:
        """Tell the caller, in the way that is left.

        When none is, the response stays without its end: the server then drops the connection.
        """
        await self.stop_comments()
        if not self.begun:
            body = wire.error_body(error, self.dialect, self._request_id)
            await self.whole(error.status, [*wire.error_headers(error), *self.about], body)
        elif self._stream and resumable:
            await self.end(wire.error_event(error, self.dialect))

    # --- waiting ---------------------------------------------------------------------------------

    def keep_awake(self, grace_s: float, every_s: float, status: Callable[[], str]) -> None:
        """After `grace_s` without an answer, begin the stream and send a comment every `every_s`.

        `status` gives the comment's text. From then on the response is 200 and its headers are
        out, so later failures become error events.
        """
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(grace_s, self._begin_comments, every_s, status)

    def _begin_comments(self, every_s: float, status: Callable[[], str]) -> None:
        self._timer = None
        self._comments = asyncio.ensure_future(self._comment(every_s, status))

    async def _comment(self, every_s: float, status: Callable[[], str]) -> None:
        await self.begin(200, [*wire.EVENT_STREAM, *self.about])
        while True:
            await self.write(wire.comment(status()))
            await asyncio.sleep(every_s)

    async def stop_comments(self) -> None:
        """No comment is written after this returns."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._comments is not None:
            self._comments.cancel()
            await asyncio.gather(self._comments, return_exceptions=True)
            self._comments = None
