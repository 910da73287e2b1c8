"""uvicorn's HTTP/1.1 protocol with limits on the head of a request.

uvicorn has none on how long, or how large, a head may be: a client that drips it would hold its
connection for ever. Refusals have the shape of OpenAI's errors, as everything else has.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy import wire
from router.errors import BadRequest, GatewayError, RequestTimeout


class HeadTooLarge(GatewayError):
    status, type, code, retry = 431, "invalid_request_error", "headers_too_large", False


_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


def protocol_class(header_timeout_s: float, max_header_bytes: int) -> type[HttpToolsProtocol]:
    """The protocol with its two limits; uvicorn makes one object of it for each connection."""
    limits = {"header_timeout_s": header_timeout_s, "max_header_bytes": max_header_bytes}
    return type("Protocol", (LimitedProtocol,), limits)


class LimitedProtocol(HttpToolsProtocol):
    header_timeout_s: float
    max_header_bytes: int
    _head_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._rest_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._head_timer is None:
                self._await_head()  # the next request on a kept-alive connection began
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.max_header_bytes:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        size = sum(len(n) + len(v) + 4 for n, v in self.headers) + len(self.url)
        self._head_came()
        self._in_head = False
        if size > self.max_header_bytes:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()
        self._rest_came()
        self._in_head = True
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            # Answered before its body was whole: the client may send on for a while, so that it
            # reads the answer instead of a reset, but not for ever.
            self._rest_timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _rest_came(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _refuse_head(self) -> None:
        limit = f"{self.max_header_bytes} bytes (server.max_header_bytes)"
        self._refuse(HeadTooLarge(f"the request's head is over {limit}"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("this is not a valid HTTP/1.1 request", code="invalid_http"))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._head_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        message = f"the request's head did not come within {self.header_timeout_s:g} s"
        self._refuse(RequestTimeout(f"{message} (server.header_timeout)"))

    def _refuse(self, error: GatewayError) -> None:
        """Answer without the application, then close."""
        self._head_came()
        if self.transport.is_closing():
            return
        body = wire.error_body(error, "other", "")
        lines = [f"HTTP/1.1 {error.status} {_REASONS[error.status]}".encode()]
        lines += [n + b": " + v for n, v in wire.error_headers(error)]
        lines += [b"content-length: " + str(len(body)).encode(), b"connection: close"]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
