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
_LAST_EVENT = re.compile(rb"\[DONE\]|message_stop|response\.completed|response\.incomplete")
_LAST_WINDOW = 4096  # bytes from the end of a piece that are looked at

_CALLERS_FAULT = re.compile(
    rb'"(?:type|code)"\s*:\s*"(?:invalid_request|BadRequest|context_length)'
)
_STATUS = re.compile(rb'"(?:code|status)"\s*:\s*"?([45]\d\d)\b')


Sink = Callable[[bytes], None]


class Answer:
    """Status, headers and body for the caller. Whoever holds it must `close` it.

    After `begin`, `ahead` holds the first bytes of the body, all of them if `complete`; `relay`
    gives the rest.
    """

    __slots__ = (
        "_clock",
        "_lease",
        "_pin",
        "_pins",
        "_record",
        "_response",
        "about",
        "ahead",
        "complete",
        "headers",
        "status",
        "upstream_headers",
    )

    def __init__(
        self, response: Response, lease: Lease, record: Record, clock: Callable[[], float]
    ) -> None:
        self.status = response.status
        self.headers: Headers = []  # for the caller, once the answer is accepted
        self.about = b""  # header lines of the gateway's own
        self.upstream_headers = response.headers
        self.ahead = b""
        self.complete = False
        self._response = response
        self._lease = lease
        self._record = record
        self._clock = clock
        self._pins: Pins | None = None
        self._pin: Pin | None = None
        record.status = response.status

    @property
    def streams(self) -> bool:
        """Whether it is an event stream."""
        return False

    @property
    def refused(self) -> int:
        """The status of an error in place of an answer; 0 for an answer."""
        return self.status if self.status >= 400 else 0

    @property
    def resumable(self) -> bool:
        """Whether an error frame may follow what was passed on so far."""
        return False

    @property
    def whole(self) -> bool:
        """Whether `ahead` is a body that can be sent with its length."""
        return False

    @property
    def length(self) -> int | None:
        """The bytes of the whole body, where the server has told them."""
        return None

    @property
    def delivered(self) -> bool:
        """Whether the caller was given all that it waits for, though more may come."""
        return False

    def pin(self, pins: Pins, pin: Pin) -> None:
        """Remember the id of the stored response in this answer, once it passes."""
        self._pins, self._pin = pins, pin

    async def begin(self) -> None:
        """Read what must be known before the first byte goes out. Raises ResponseLost."""
        raise NotImplementedError

    async def relay(self, sink: Sink) -> None:
        """Give what follows `ahead` to `sink`, each piece as it arrives. Raises ResponseLost."""
        try:
            await self._response.pump(self._passing_to(sink))
        except UpstreamError as error:
            raise self._lost(error) from error
        self._completed()

    def _passing_to(self, sink: Sink) -> Sink:
        """What is done with each piece from the server."""
        raise NotImplementedError

    def hold(self) -> None:
        """The caller does not read: slow the server down."""
        self._response.hold()

    def go_on(self) -> None:
        self._response.go_on()

    async def _received(self) -> bytes:
        """The next bytes from the server, with the first one's time noted."""
        if self.complete:
            return b""
        try:
            chunk = self._response.read_now() or await self._response.read()
        except UpstreamError as error:
            raise self._lost(error) from error
        if self._record.first_byte_s is None and chunk:
            self._record.first_byte_s = self._clock()
        if self._response.ended:
            self._completed()
        return chunk

    def _completed(self) -> None:
        self.complete = True
        if self.status < 500:
            self._lease.succeeded()

    def _lost(self, error: UpstreamError) -> ResponseLost:
        """The one translation of a failure in the middle of an answer."""
        self._lease.failed(self._clock())
        endpoint = self._lease.endpoint.id
        if isinstance(error, IdleTimeout):
            return ResponseStalled(f"{endpoint} fell silent: {error}")
        return ResponseLost(f"{endpoint} broke off its answer: {error}")

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

    __slots__ = ("_rest", "_size", "_text")
    whole_limit = WHOLE_LIMIT

    def __init__(
        self,
        response: Response,
        lease: Lease,
        record: Record,
        clock: Callable[[], float],
        *,
        media: bytes,
    ) -> None:
        super().__init__(response, lease, record, clock)
        self._text = not media.startswith(_MEDIA)
        self._rest: list[bytes] = []  # for the meter
        self._size = 0

    @property
    def whole(self) -> bool:
        return self.complete

    @property
    def length(self) -> int | None:
        return told_length(self.upstream_headers)

    async def begin(self) -> None:
        self.ahead = await self._received()
        if self._text and not self.complete:
            await self._read_ahead()
        if self._pins is not None:
            self._look_for_id(self.ahead)

    async def _read_ahead(self) -> None:
        parts = [self.ahead]
        size = len(self.ahead)
        while size < self.whole_limit and (chunk := await self._received()):
            parts.append(chunk)
            size += len(chunk)
        self.ahead = b"".join(parts)

    def _passing_to(self, sink: Sink) -> Sink:
        self._size = len(self.ahead)

        def pass_on(chunk: bytes) -> None:
            self._size += len(chunk)
            if self._text and self._size <= PARSED_LIMIT:
                self._rest.append(chunk)
            sink(chunk)

        return pass_on

    def close(self) -> None:
        super().close()
        if self._text and self.complete and self.status == 200 and self._size <= PARSED_LIMIT:
            body = b"".join([self.ahead, *self._rest]) if self._rest else self.ahead
            gzipped = (b"content-encoding", b"gzip") in self.upstream_headers
            self._record.usage = from_body(body, gzipped)
        self._rest.clear()


class StreamAnswer(Answer):
    """Server-sent events, passed on as they come, whole events at a time."""

    __slots__ = ("_last", "_meter", "_splitter", "error_status")

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
        self.error_status = 0  # of an error that is the first event; 0 when it is none
        self._splitter = EventSplitter()
        self._meter = StreamMeter(drop=drop_usage)
        self._last = b""

    @property
    def streams(self) -> bool:
        return True

    @property
    def refused(self) -> int:
        return super().refused or self.error_status

    @property
    def resumable(self) -> bool:
        return not self._splitter.torn

    @property
    def delivered(self) -> bool:
        return _LAST_EVENT.search(self._last, max(len(self._last) - _LAST_WINDOW, 0)) is not None

    async def begin(self) -> None:
        """Wait for the first event: one that is an error may still be answered elsewhere.

        Comments before it are held back with it; the gateway's own keep the caller awake.
        """
        while len(self.ahead) < HELD_LIMIT and (chunk := await self._received()):
            events = self._events(chunk)
            self.ahead += events
            first = _first_event(events)
            if first is not None:
                self.error_status = _error_status(first)
                self._look_for_id(events)
                break
        if self.complete:
            self.ahead += self._splitter.rest()
        self._last = self.ahead

    async def relay(self, sink: Sink) -> None:
        await super().relay(sink)
        rest = self._splitter.rest()
        if rest:
            sink(rest)

    def _passing_to(self, sink: Sink) -> Sink:
        splitter, meter, record = self._splitter, self._meter, self._record

        def pass_on(chunk: bytes) -> None:
            # Nearly every chunk is one whole event that tells nothing but a token.
            if splitter.between_events and chunk.endswith(b"\n\n"):
                events = chunk
            else:
                events = splitter.feed(chunk)
            if record.first_token_s is None:
                self._look_for_token(events)
            if b'"usage"' in events:
                events = meter.see(events)
            if events:
                self._last = events
                sink(events)

        return pass_on

    def _events(self, chunk: bytes) -> bytes:
        """The whole events that this chunk completes, without those that nobody asked for."""
        events = self._splitter.feed(chunk)
        if self._record.first_token_s is None:
            self._look_for_token(events)
        return self._meter.see(events)

    def _look_for_token(self, events: bytes) -> None:
        if has_content(events):
            self._record.first_token_s = self._clock()

    def close(self) -> None:
        super().close()
        self._record.usage = self._meter.usage


class KeptAnswer(Answer):
    """A whole answer whose place is given back already: what it says is all that is left of it."""

    __slots__ = ("_streams",)

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.about = answer.about
        self.upstream_headers = answer.upstream_headers
        self.ahead = answer.ahead
        self.complete = True
        self._streams = answer.streams

    @property
    def streams(self) -> bool:
        return self._streams

    @property
    def whole(self) -> bool:
        return not self._streams

    @property
    def delivered(self) -> bool:
        return True

    def hold(self) -> None:
        """Nothing more comes."""

    def go_on(self) -> None:
        """Nothing more comes."""

    def close(self) -> None:
        """Nothing is held."""


def told_length(headers: Headers) -> int | None:
    """The length that a server announced for its body, and that its framing obeys.

    Where it also says chunked, that counts, and the length may be anything (RFC 9112, 6.3).
    """
    fields = dict(headers)
    if b"transfer-encoding" in fields or b"content-length" not in fields:
        return None
    return int(fields[b"content-length"])


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
