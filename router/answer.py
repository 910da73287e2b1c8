"""A model server's answer on its way to the caller: relayed, metered, never parsed as a whole."""

import re
from collections.abc import Callable

from backends.lease import Lease
from backends.upstream import IdleTimeout, Response, UpstreamError
from router.errors import ResponseLost, ResponseStalled
from router.pins import Pin, Pins
from router.record import Record
from router.request import Headers
from router.sse import EventSplitter, event_data, has_content, split_events
from router.usage import PARSED_LIMIT, StreamMeter, from_body

WHOLE_LIMIT = 1024 * 1024  # a plain answer up to this size is kept back until it is complete
HELD_LIMIT = 64 * 1024  # of a stream before its first event
_MEDIA = (b"audio/", b"video/", b"image/", b"application/octet-stream")
_PIN_WINDOW = 64 * 1024
# `"error": null` is what some servers put when all is well.
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*[{"]')
# Clients close the connection as soon as they have read this, before the server's last byte.
_LAST_EVENTS = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")
_LAST_WINDOW = 4096  # bytes from the end of a chunk that are looked at

_CALLERS_FAULT = re.compile(
    rb'"(?:type|code)"\s*:\s*"(?:invalid_request|BadRequest|context_length)'
)
_STATUS = re.compile(rb'"(?:code|status)"\s*:\s*"?([45]\d\d)\b')


class Answer:
    """Status, headers and body for the caller. Whoever holds it must `close` it.

    `read` gives b"" at the end and raises ResponseLost when the server died or fell silent.
    `resumable` tells whether an error frame may follow what was read so far.
    """

    def __init__(
        self,
        response: Response,
        lease: Lease,
        record: Record,
        clock: Callable[[], float],
    ) -> None:
        self.status = response.status
        self.headers: Headers = []  # for the caller, once the answer is accepted
        self.upstream_headers = response.headers
        self._response = response
        self._lease = lease
        self._record = record
        self._clock = clock
        self._pins: Pins | None = None
        self._pin: Pin | None = None
        self._ahead: list[bytes] = []
        self._complete = False
        record.status = response.status

    @property
    def resumable(self) -> bool:
        return False

    def pin(self, pins: Pins, pin: Pin) -> None:
        """Remember the id of the stored response in this answer, once it passes."""
        self._pins, self._pin = pins, pin

    async def begin(self) -> None:
        """Read what must be known before the first byte goes out. Raises ResponseLost."""
        raise NotImplementedError

    async def read(self) -> bytes:
        chunk = self._ahead.pop(0) if self._ahead else await self._next()
        self._record.bytes_out += len(chunk)
        return chunk

    async def _next(self) -> bytes:
        raise NotImplementedError

    async def _received(self) -> bytes:
        """The next bytes from the server, with the first one's time noted."""
        if self._complete:
            return b""
        try:
            chunk = await self._response.read()
        except UpstreamError as error:
            self._lease.failed(self._clock())
            raise lost(error, self._lease) from error
        if not chunk:
            self._complete = True
            if self.status < 500:
                self._lease.succeeded()
        elif self._record.first_byte_s is None:
            self._record.first_byte_s = self._clock()
        return chunk

    def _look_for_id(self, chunk: bytes) -> None:
        if self._pins is not None and self._pin is not None:
            self._pins.remember(chunk[:_PIN_WINDOW], self._pin)
            self._pins = None

    def close(self) -> None:
        """Give the place back; cuts the connection if the server was not done."""
        self._response.close()
        self._lease.release()


class PlainAnswer(Answer):
    """An answer that is no event stream. Up to 1 MiB it is whole before it begins, so never cut.

    Speech and pictures are passed on from their first bytes.
    """

    def __init__(
        self, response: Response, lease: Lease, record: Record, clock: Callable[[], float]
    ) -> None:
        super().__init__(response, lease, record, clock)
        self._parts: list[bytes] = []
        self._size = 0
        self._gzipped = (b"content-encoding", b"gzip") in response.headers
        media = next((v for n, v in response.headers if n == b"content-type"), b"")
        self._text = not media.startswith(_MEDIA)

    async def begin(self) -> None:
        wanted = WHOLE_LIMIT if self._text else 1
        while self._size < wanted and (chunk := await self._received()):
            self._keep(chunk)
        self._ahead = [b"".join(self._parts)] if self._parts else []
        if self._ahead:
            self._look_for_id(self._ahead[0])

    async def _next(self) -> bytes:
        chunk = await self._received()
        if chunk:
            self._keep(chunk)
        return chunk

    def _keep(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= PARSED_LIMIT and (self._text or not self._ahead):
            self._parts.append(chunk)
        else:
            self._parts.clear()

    def close(self) -> None:
        super().close()
        if self._text and self._complete and self._parts and self.status == 200:
            body = b"".join(self._parts)
            self._record.usage = from_body(body, self._gzipped)
        self._parts.clear()


class StreamAnswer(Answer):
    """Server-sent events, passed on as they come, whole events at a time."""

    def __init__(
        self,
        response: Response,
        lease: Lease,
        record: Record,
        clock: Callable[[], float],
        *,
        drop_usage: bool,
    ) -> None:
        super().__init__(response, lease, record, clock)
        self._splitter = EventSplitter()
        self._meter = StreamMeter(drop=drop_usage)
        self.error_status = 0  # of an error that is the first event; 0 when it is none

    @property
    def resumable(self) -> bool:
        return not self._splitter.torn

    async def begin(self) -> None:
        """Wait for the first event: one that is an error may still be answered elsewhere.

        Comments before it are held back with it; the gateway's own keep the caller awake.
        """
        held = 0
        while held < HELD_LIMIT and (events := await self._next()):
            self._ahead.append(events)
            held += len(events)
            first = _first_event(events)
            if first is not None:
                self.error_status = _error_status(first)
                self._look_for_id(events)
                return

    async def read(self) -> bytes:
        chunk = await super().read()
        end = chunk[-_LAST_WINDOW:]
        if any(last in end for last in _LAST_EVENTS):
            self._record.delivered = True
        return chunk

    async def _next(self) -> bytes:
        while chunk := await self._received():
            events = self._splitter.feed(chunk)
            if events:
                self._mark_first_token(events)
                events = self._meter.see(events)
            if events:
                return events
        return self._splitter.rest()

    def _mark_first_token(self, events: bytes) -> None:
        if self._record.first_token_s is None and has_content(events):
            self._record.first_token_s = self._clock()

    def close(self) -> None:
        super().close()
        self._record.usage = self._meter.usage


def _first_event(events: bytes) -> bytes | None:
    """The first event that carries data."""
    return next((e for e in split_events(events) if event_data(e)), None)


def _error_status(event: bytes) -> int:
    """The status that an event stands for which is an error in any dialect; 0 for any other."""
    data = event_data(event)
    named = b"event: error" in event or b"event:error" in event
    if not named and _ERROR.match(data) is None:
        return 0
    if _CALLERS_FAULT.search(data):
        return 400
    code = _STATUS.search(data)
    return int(code.group(1)) if code is not None else 500


def lost(error: UpstreamError, lease: Lease) -> ResponseLost:
    """The one translation of a failure in the middle of an answer."""
    if isinstance(error, IdleTimeout):
        return ResponseStalled(f"{lease.endpoint.id} fell silent: {error}")
    return ResponseLost(f"{lease.endpoint.id} broke off its answer: {error}")
