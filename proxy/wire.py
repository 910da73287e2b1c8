"""The OpenAI wire format for everything that is not a model's answer: errors, models, comments.

One place renders errors, in the dialect of the path and before or after the first byte.
"""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import msgspec

from router.errors import GatewayError
from router.request import Dialect, Headers

JSON = (b"content-type", b"application/json")
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


_now: tuple[int, bytes] = (0, b"")


def date() -> bytes:
    """The value of a Date header, made once a second."""
    global _now
    second = int(time.time())
    if second != _now[0]:
        _now = (second, formatdate(second, usegmt=True).encode())
    return _now[1]


_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


def response_head(status: int, headers: Headers, length: int | None, more: bytes = b"") -> bytes:
    """The bytes before a body; `length` writes its Content-Length, `more` are whole lines.

    ValueError for a header that would end the head, or begin another header.
    """
    lines = [b"%b: %b\r\n" % header for header in headers]
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
        raise ValueError("a header holds a line break or a NUL")
    if length is not None:
        more = b"%bcontent-length: %d\r\n" % (more, length)
    first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b%b\r\n" % (first, text, more)


_CHUNK_SIZES = [b"%x\r\n" % size for size in range(2048)]  # formatting costs twice the rest


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    size = len(data)
    return b"".join((_CHUNK_SIZES[size] if size < 2048 else b"%x\r\n" % size, data, b"\r\n"))


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def error_headers(error: GatewayError) -> Headers:
    """What tells an SDK whether and when to try again, and a person whose fault it was."""
    headers = [
        JSON,
        (b"x-lamplighter-error-source", b"gateway"),
        (b"x-lamplighter-reason", error.reason.encode()),
    ]
    if error.retry is not None:
        headers.append((b"x-should-retry", b"true" if error.retry else b"false"))
    after_s = error.retry_after_s
    if after_s is None and error.status in (429, 503):
        after_s = 1
    if after_s is not None:
        headers.append((b"retry-after", str(after_s).encode()))
    return headers


def error_object(error: GatewayError) -> dict[str, Any]:
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def error_body(error: GatewayError, dialect: Dialect, request_id: str) -> bytes:
    """The body of a non-2xx answer; the Anthropic SDK wants `type: error` around the same."""
    body: dict[str, Any] = {"error": error_object(error)}
    if dialect == "messages":
        body = {"type": "error", **body, "request_id": request_id}
    return encode(body)


def error_event(error: GatewayError, dialect: Dialect) -> bytes:
    """The last event of a stream that cannot go on; no [DONE] may follow it."""
    if dialect == "responses":
        fields = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + encode(fields) + b"\n\n"
    if dialect == "messages":
        body = {"type": "error", "error": error_object(error)}
        return b"event: error\ndata: " + encode(body) + b"\n\n"
    return b"data: " + encode({"error": error_object(error)}) + b"\n\n"


def comment(text: str) -> bytes:
    """A keepalive that every SDK survives: comments only, no empty event, never an id."""
    return b": " + text.encode("ascii", "backslashreplace").replace(b"\n", b" ") + b"\n\n"
