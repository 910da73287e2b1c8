"""One connection to a model server and the one exchange that it carries at a time.

Owns framing (by httptools), back-pressure, deadlines and how a message ends. Does not know which
requests go where, and never retries. Written for the hot path: plain attributes, one timer that is
moved lazily, one future per wait.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from backends.deadline import Deadline
from backends.upstream_errors import (
    BadResponse,
    FirstByteTimeout,
    IdleTimeout,
    NoAnswer,
    ResponseCut,
    Stage,
    UpstreamError,
)
from backends.upstream_head import HEAD_LIMIT, Malformed, check_interim, check_size, framing

HIGH_WATER = 64 * 1024  # unread bytes at which the server is slowed down
JOIN_LIMIT = 64 * 1024  # up to here copying a body costs less than a second buffer to send

_IDLE, _HEAD, _BODY, _DONE, _DEAD = range(5)


class Owner(Protocol):
    """Who counts connections and keeps idle ones."""

    def joined(self, connection: "Connection") -> None: ...
    def left(self, connection: "Connection") -> None: ...
    def keep(self, connection: "Connection") -> float:
        """Take an idle connection back; how long it may stay, 0 when it is not wanted."""


class Connection(asyncio.Protocol):
    """Everything that arrived before an error is delivered before the error."""

    def __init__(self, owner: Owner, peer: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.error: UpstreamError | None = None
        self._owner = owner
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._stage = _IDLE
        self._waiter: asyncio.Future[None] | None = None
        self._uncounted = 0  # bytes that arrived since the last piece of body
        self._buffered = 0
        self._paused = False
        self._quiet = False  # somebody asked for bytes and none came since
        self._bodiless = False
        self._until_close = False
        self._reusable = False
        self._unwritten: tuple[bytes, bytes] | None = None
        self._sending = False
        self._unsent = 0
        self._first_byte_s = math.inf
        self._idle_s = math.inf
        self._made_s = self._loop.time()
        self._sink: Callable[[bytes], None] | None = None
        self._held = False  # the sink asked for no more
        self._deadline = Deadline(self._loop, self._late)

    # -- for the owner and the response

    @property
    def usable(self) -> bool:
        """Idle, open, and not past its time: the timer is late when the loop was busy."""
        transport = self._transport
        if self._stage != _IDLE or transport is None or transport.is_closing():
            return False
        return self._loop.time() < self._deadline.at

    @property
    def age_s(self) -> float:
        return self._loop.time() - self._made_s

    @property
    def silent(self) -> bool:
        """No byte of a response has arrived: the request may be sent again elsewhere."""
        return self._uncounted == 0 and self.status == 0

    @property
    def done(self) -> bool:
        return self._stage == _DONE

    def send(
        self, head: bytes, body: bytes, *, bodiless: bool, first_byte_s: float
    ) -> asyncio.Future[None]:
        """Write a request. The future ends when the response head is there, or cannot come.

        Before the connection is made the request waits for it: nothing can arrive in between.
        """
        if self._parser is None:
            self._parser = HttpResponseParser(self)
            # Transfer-Encoding beside Content-Length is answered as RFC 9112 6.3 says: chunked.
            self._parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._stage = _HEAD
        self.status = 0
        self.headers = []
        self._uncounted = 0
        self._bodiless = bodiless
        self._first_byte_s = first_byte_s
        self._waiter = waiter = self._loop.create_future()
        if self._transport is None:
            self._unwritten = (head, body)
        else:
            self._write(self._transport, head, body)
        return waiter

    def arrival(self, idle_s: float) -> asyncio.Future[None]:
        """Ends when there may be more to take. Idle time counts from the first such wait."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two readers on one response")
        if not self._quiet:
            self._quiet = True
            self._deadline.after(idle_s)
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def flow(self, sink: Callable[[bytes], None], idle_s: float) -> asyncio.Future[None]:
        """Give what arrives to `sink` at once. Ends when nothing more comes, well or not.

        Spares a stream the way through the event loop for each of its events.
        """
        self._sink = sink
        self._idle_s = idle_s
        return self.arrival(math.inf if self._held else idle_s)

    def stop_flow(self) -> None:
        self._sink = None

    def hold(self) -> None:
        """The sink wants no more for now: the server is slowed down, and may take its time."""
        self._held = True
        self._pause()
        if self._sink is not None:
            self._deadline.clear()

    def go_on(self) -> None:
        self._held = False
        if self._paused:
            self._resume()
        if self._sink is not None:
            self._deadline.after(self._idle_s)

    def take(self) -> bytes:
        chunks = self.chunks
        taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        self._quiet = False
        if self._paused and not self._held:
            self._resume()
        return taken

    def leave(self) -> None:
        """The exchange is over: back to the owner if it ended well, closed at once if not."""
        if self._stage != _DONE or not self._reusable:
            self.abort()
            return
        self._stage = _IDLE
        self._held = False
        self.take()
        self.headers = []
        if self._bodiless:
            self._parser = None  # it still waits for the body that a HEAD has not
        keep_s = self._owner.keep(self)
        if keep_s > 0:
            self._deadline.after(keep_s)
        else:
            self.abort()

    def abort(self) -> None:
        """Close without waiting for anything; the server notices at its next read or write."""
        self._stage = _DEAD
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports are no subclasses.
        self._transport = cast(asyncio.Transport, transport)
        # Low marks, so that "paused" means "not yet sent". TLS transports compare with >=.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._owner.joined(self)
        if self._unwritten is not None:
            self._write(self._transport, *self._unwritten)
            self._unwritten = None

    def pause_writing(self) -> None:
        self._sending = True

    def resume_writing(self) -> None:
        self._sending = False
        if self._stage == _HEAD:
            self._deadline.after(self._first_byte_s)

    def data_received(self, data: bytes) -> None:
        if self._stage == _DEAD:
            return
        if self._stage == _IDLE or self._parser is None:
            self.abort()  # nobody asked: most often "408 Request Timeout" before a close
            return
        self._uncounted += len(data)
        before = self._buffered
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            if self._stage != _DONE:
                self._fail(self._bad(exc), exc)
                return
            self._reusable = False  # the response is whole; what follows it is nobody's
        if self._buffered > before:
            self._uncounted = 0
            if self._buffered > HIGH_WATER:
                self._pause()
        elif self._uncounted > HEAD_LIMIT:
            self._fail(BadResponse(f"{self._peer} sent headers without end", self._where()))
            return
        if self._sink is not None:
            self._pass_on()
        elif self._stage != _HEAD:
            self._wake()

    def eof_received(self) -> None:
        self._ended(None)
        if self._transport is not None:
            self._transport.abort()  # a half-sent request would hold a gentle close open

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self.forget()

    def forget(self) -> None:
        """Idempotent: uvloop never tells of a connection cancelled while it was handed over."""
        self._deadline.cancel()
        self._parser = None  # it refers back to this object
        if self._transport is not None:
            self._transport = None
            self._owner.left(self)

    # -- what the parser finds

    def on_message_begin(self) -> None:
        if self._stage != _HEAD:
            raise Malformed("sent more than its response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage == _HEAD:  # else a trailer: nobody reads those
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        check_size(self.headers, self._uncounted)
        if status < 200:
            check_interim(status, self.headers)
            self.headers = []
            return
        self._until_close, self._reusable = framing(status, self.headers)
        self.status = status
        self._uncounted = 0
        self._stage = _BODY
        if self._bodiless:
            self._complete()

    def on_body(self, data: bytes) -> None:
        if self._stage != _BODY:
            raise Malformed("sent more than its response")
        self.chunks.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        if self._stage == _BODY:
            self._complete()

    # -- inside

    def _write(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        if not body:
            transport.write(head)
        elif len(body) <= JOIN_LIMIT:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if self._sending:
            self._unsent = transport.get_write_buffer_size()
        self._deadline.after(self._first_byte_s)

    def _pass_on(self) -> None:
        chunks = self.chunks
        if chunks and self._sink is not None:
            piece = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self._buffered = 0
            self._sink(piece)
            if self._paused and not self._held:
                self._resume()
        if self._stage == _DONE:
            self._wake()
        elif not self._held:
            self._quiet = True
            self._deadline.after(self._idle_s)

    def _complete(self) -> None:
        assert self._parser is not None
        self._stage = _DONE
        # A request that is still being sent would be read as the start of the next one.
        self._reusable &= not self._sending and self._parser.should_keep_alive()

    def _bad(self, exc: Exception) -> BadResponse:
        if isinstance(exc.__context__, Malformed):
            return BadResponse(f"{self._peer} {exc.__context__}", self._where())
        return BadResponse(f"{self._peer} does not speak HTTP/1.1: {exc}", self._where())

    def _where(self) -> Stage:
        return "body" if self.status else "head"

    def _ended(self, exc: Exception | None) -> None:
        """The server closed (exc None) or the connection broke."""
        if self._stage == _IDLE:
            self._stage = _DEAD
        elif self._stage == _HEAD:
            self._fail(NoAnswer(f"{self._peer} closed the connection without an answer"), exc)
        elif self._stage == _BODY and self._until_close and exc is None:
            self._stage = _DONE
            self._wake()
        elif self._stage == _BODY:
            self._fail(ResponseCut(f"{self._peer} closed in the middle of its response"), exc)
        self._reusable = False

    def _fail(self, error: UpstreamError, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        self.error = error
        self.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and self._stage != _DEAD:
            self._transport.resume_reading()

    def _late(self) -> None:
        if self._stage == _IDLE:
            self.abort()
        elif self._stage == _HEAD:
            self._head_is_late()
        elif self._stage == _BODY and self._quiet and not self.chunks:
            self._fail(IdleTimeout(f"{self._peer} stopped in the middle of its response"))

    def _head_is_late(self) -> None:
        left = self._transport.get_write_buffer_size() if self._transport and self._sending else 0
        if self._sending and left < self._unsent:
            self._unsent = left  # a long request on a slow line: it moves, so let it
            self._deadline.after(self._first_byte_s)
        else:
            self._fail(FirstByteTimeout(f"{self._peer} did not answer in time"))
