"""The response to one caller: its head, its body, and comments that keep a waiting stream awake.

Holds the state of one response. Before the head is out an error has its true status; after it, a
stream ends with an error event, and anything else is cut, so that no client takes it for whole.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from proxy import wire
from proxy.head import Head
from router.answer import Answer
from router.errors import GatewayError, UpstreamFailed
from router.request import Dialect, Headers

if TYPE_CHECKING:
    from proxy.connection import Connection

_BODILESS = frozenset({204, 304})


class Responder:
    """Writes one response. `begun`: its head is out; `ended`: so is its last byte."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_close_framed",
        "_connection",
        "_head",
        "_id",
        "_request_id",
        "_stream",
        "_timer",
        "about",
        "begun",
        "bytes_out",
        "dialect",
        "ended",
    )

    def __init__(self, connection: "Connection", head: Head, request_id: str) -> None:
        self.dialect: Dialect = "other"
        self.about: Headers = []  # for what the gateway says itself, once it knows of what
        self.begun = False
        self.ended = False
        self.bytes_out = 0
        self._connection = connection
        self._head = head
        self._id = request_id.encode()
        self._request_id = request_id
        self._stream = False
        self._bodiless = False
        self._chunked = False
        self._close_framed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def reusable(self) -> bool:
        """Whether another answer may follow on the connection."""
        return self.ended and not self._close_framed and self._head.keep_alive

    def begin(self, status: int, headers: Headers, length: int | None, about: bytes = b"") -> None:
        """Write the head; `about` holds more lines of it.

        Without a `length` the body is chunked, or ends with the connection.
        """
        self._stream = any(n == b"content-type" and b"event-stream" in v for n, v in headers)
        self._bodiless = status in _BODILESS or self._head.method == "HEAD"
        if length is None and not self._bodiless:
            self._chunked = self._head.chunks_understood
            self._close_framed = not self._chunked
        head = self._head_bytes(status, headers, length, about)
        if not self._connection.transport.is_closing():
            self._connection.transport.write(head)

    def _head_bytes(self, status: int, headers: Headers, length: int | None, about: bytes) -> bytes:
        self.begun = True
        more = b"%bdate: %b\r\nx-request-id: %b\r\n" % (about, wire.date(), self._id)
        if self._chunked:
            more += b"transfer-encoding: chunked\r\n"
        if self._close_framed or not self._head.keep_alive:
            more += b"connection: close\r\n"
        elif not self._head.chunks_understood:
            more += b"connection: keep-alive\r\n"
        return wire.response_head(status, headers, length, more)

    def write(self, chunk: bytes) -> None:
        """Never waits: `Connection.paused` tells when the caller does not keep up."""
        transport = self._connection.transport
        if not chunk or self._bodiless or transport.is_closing():
            return
        self.bytes_out += len(chunk)
        transport.write(wire.chunk(chunk) if self._chunked else chunk)

    def end(self) -> None:
        transport = self._connection.transport
        if self._chunked and not transport.is_closing():
            transport.write(b"0\r\n\r\n")
        self.ended = True

    def whole(self, status: int, headers: Headers, body: bytes, about: bytes = b"") -> None:
        """Head and body at once."""
        self.ended = True
        self.bytes_out = len(body)
        transport = self._connection.transport
        if transport.is_closing():
            return
        length = None if status in _BODILESS else len(body)
        head = self._head_bytes(status, headers, length, about)
        transport.write(head if self._head.method == "HEAD" else head + body)

    def fail(self, error: GatewayError, *, resumable: bool) -> None:
        """Tell the caller, in the way that is left.

        When none is, the response stays without its end and the connection is cut.
        """
        self.stop_comments()
        if not self.begun:
            body = wire.error_body(error, self.dialect, self._request_id)
            self.whole(error.status, [*wire.error_headers(error), *self.about], body)
        elif self._stream and resumable:
            self.write(wire.error_event(error, self.dialect))
            self.end()
        elif self._close_framed:
            self._connection.transport.abort()  # an orderly close would look like the end

    # --- waiting ---------------------------------------------------------------------------------

    def keep_awake(self, grace_s: float, every_s: float, status: Callable[[], str]) -> None:
        """After `grace_s` without an answer, begin the stream and send a comment every `every_s`.

        `status` gives the comment's text. From then on the response is 200 and its headers are
        out, so later failures become error events.
        """
        self._timer = self._connection.loop.call_later(grace_s, self._comment, every_s, status)

    def _comment(self, every_s: float, status: Callable[[], str]) -> None:
        if not self.begun:
            self.begin(200, [*wire.EVENT_STREAM, *self.about], None)
        if not self._connection.paused:
            self.write(wire.comment(status()))
        self._timer = self._connection.loop.call_later(every_s, self._comment, every_s, status)

    def stop_comments(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def late_error(answer: Answer) -> GatewayError:
    """A backend's error that comes after the caller's stream began with comments."""
    error = UpstreamFailed(f"the model server answered {answer.status} without a stream")
    try:
        told = msgspec.json.decode(answer.ahead, type=_Told).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return error
    error.message = told.message
    error.type = told.type or error.type
    error.code = str(told.code) if told.code is not None else error.code
    error.param = told.param
    return error


class _ToldError(msgspec.Struct):
    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class _Told(msgspec.Struct):
    error: _ToldError
