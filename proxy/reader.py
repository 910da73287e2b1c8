"""From the bytes of a caller's connection to requests, within the limits on their heads.

httptools parses; here stands what it lets pass and two parsers may read differently (RFC 9112,
3.2, 6.1, 11.2), and what would fill memory without ever being a request.
"""

from dataclasses import dataclass
from typing import Protocol

import httptools

from proxy.head import Head
from router.errors import BadRequest, GatewayError, HeadTooLarge
from router.headers import named_in_connection
from router.request import Headers

IDLE, HEAD, BODY = range(3)  # what of a request is arriving
_OFFERS = frozenset({b"upgrade", b"http2-settings", b"connection"})


@dataclass(frozen=True)
class HeadLimits:
    """Seconds within which the head of a request must have come, and its most bytes."""

    timeout_s: float
    max_bytes: int


class Taker(Protocol):
    """Who gets what was read."""

    def request_begins(self, head: Head) -> None: ...
    def body_arrives(self, piece: bytes) -> None: ...
    def request_ends(self) -> None: ...


class Reader:
    """`stage` is what arrives now, `head_bytes` what came of a head that is not whole."""

    def __init__(self, limits: HeadLimits, taker: Taker) -> None:
        self.stage = IDLE
        self.head_bytes = 0
        self._limits = limits
        self._taker = taker
        self._parser: httptools.HttpRequestParser | None = None
        self._url = b""
        self._headers: Headers = []
        self._head_size = 0
        self._pieces = 0  # of bodies, so far
        self._no_body = 0  # bytes within a body since the last that were of it
        self._offer = b""  # a head that offered to upgrade, without the offer
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # A request that says "Connection: close" is answered, whatever follows it.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def close(self) -> None:
        """Nothing may be fed any more."""
        self._parser = None  # it refers back to this object
        self._taker = _NOBODY  # as the connection refers to this one

    def feed(self, data: bytes) -> None:
        """Raises GatewayError for what is no request; nothing more may be fed then."""
        assert self._parser is not None
        if self.stage == BODY:
            pieces = self._pieces
            self._parse(data)
            if self.stage == BODY:
                self._bound_what_is_no_body(len(data), self._pieces - pieces)
            return
        self.head_bytes += len(data)
        self._parse(data)
        if self.stage == HEAD and self.head_bytes > self._limits.max_bytes:
            raise self._too_large()

    def _parse(self, data: bytes) -> None:
        while True:
            assert self._parser is not None
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # An offer may be passed over (RFC 9110, 7.8), but the parser stops: begin anew.
                data = self._offer + data[upgrade.args[0] :]
                self._offer = b""
                self._new_parser()
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, GatewayError):
                    raise error.__context__ from None
                raise _invalid("this is not a valid HTTP/1.1 request") from error

    def _bound_what_is_no_body(self, size: int, pieces: int) -> None:
        """Trailers and the extensions of chunks may be as long as a head."""
        self._no_body = 0 if pieces else self._no_body + size
        if self._no_body > self._limits.max_bytes:
            raise self._too_large()

    def _too_large(self) -> GatewayError:
        limit = f"{self._limits.max_bytes} bytes (server.max_header_bytes)"
        return HeadTooLarge(f"the request's head, or what follows its body, is over {limit}")

    # --- what the parser finds -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.stage = HEAD
        self._url = b""
        self._headers = []
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage == HEAD:  # else a trailer: nobody reads those
            self._headers.append((name.lower(), value))
            self._head_size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        if self._head_size + len(self._url) > self._limits.max_bytes:
            raise self._too_large()
        method, version = parser.get_method().decode(), parser.get_http_version()
        head = Head(method, self._url, self._headers, version, parser.should_keep_alive())
        _check(head)
        if parser.should_upgrade():
            self._offer = _without_offer(head)
            return
        self.stage = BODY
        self._no_body = 0
        self._taker.request_begins(head)

    def on_body(self, piece: bytes) -> None:
        self._pieces += 1
        self._taker.body_arrives(piece)

    def on_message_complete(self) -> None:
        if self._offer:
            return
        self.stage = IDLE
        self.head_bytes = 0
        self._taker.request_ends()


class _Nobody:
    def request_begins(self, head: Head) -> None: ...
    def body_arrives(self, piece: bytes) -> None: ...
    def request_ends(self) -> None: ...


_NOBODY = _Nobody()


def _invalid(message: str) -> BadRequest:
    return BadRequest(message, code="invalid_http")


def _check(head: Head) -> None:
    """Raises BadRequest for a head that another parser might read differently."""
    fields = head.fields
    if head.version not in ("1.1", "1.0"):
        raise _invalid(f"HTTP/{head.version} is not spoken here; HTTP/1.1 is")
    if head.method == "CONNECT":
        raise _invalid("this is no forward proxy: CONNECT is not possible")
    if b"host" not in fields and head.version == "1.1":
        raise _invalid("the request has no Host header")
    if len(fields) < len(head.headers) and sum(name == b"host" for name, _ in head.headers) > 1:
        raise _invalid("the request has several Host headers")
    if b"transfer-encoding" in fields:
        codings = [v.strip().lower() for n, v in head.headers if n == b"transfer-encoding"]
        if head.version == "1.0" or codings != [b"chunked"]:
            raise _invalid("a body may be chunked, in HTTP/1.1, and nothing besides")


def _without_offer(head: Head) -> bytes:
    kept = [b"%b: %b\r\n" % header for header in head.headers if header[0] not in _OFFERS]
    named = named_in_connection(head.headers) - _OFFERS
    if not head.keep_alive:
        named |= {b"close"}
    if named:
        kept.append(b"connection: %b\r\n" % b", ".join(sorted(named)))
    start = b"%b %b HTTP/%b\r\n" % (head.method.encode(), head.url, head.version.encode())
    return start + b"".join(kept) + b"\r\n"
