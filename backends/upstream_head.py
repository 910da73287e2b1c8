"""What the head of a response means: is it within bounds, and how does the body behind it end.

Pure functions over the parsed headers. httptools refuses bad syntax before they are asked.
"""

from collections.abc import Sequence
from typing import NamedTuple

HEAD_LIMIT = 64 * 1024
HEADERS_LIMIT = 200

_Headers = Sequence[tuple[bytes, bytes]]


class Malformed(Exception):
    """Said of the server: the message continues a sentence that begins with its address."""


class Framing(NamedTuple):
    until_close: bool  # only the end of the connection ends the body
    unambiguous: bool  # False: whoever sits between may see another end than we do


def check_size(headers: _Headers, received: int) -> None:
    """`received` is an upper bound that costs nothing; the sum is made when there is a reason."""
    if len(headers) > HEADERS_LIMIT:
        raise Malformed(f"sent more than {HEADERS_LIMIT} headers")
    if received > HEAD_LIMIT:
        size = sum(len(name) + len(value) + 4 for name, value in headers)
        if size > HEAD_LIMIT:
            raise Malformed(f"sent a head of more than {HEAD_LIMIT} bytes")


def check_interim(status: int, headers: _Headers) -> None:
    """100 and 103 are passed over; 101 was not asked for, and none of them has a body."""
    framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
    if status < 100 or status == 101 or framed:
        raise Malformed("sent an interim response that was not asked for")


def framing(status: int, headers: _Headers) -> Framing:
    if status > 599:
        raise Malformed("sent a status that HTTP does not have")
    names = [name for name, _ in headers]
    has_length = b"content-length" in names
    if b"transfer-encoding" in names:
        # Another coding than chunked would have to be undone here; nobody who serves models uses
        # one. Beside a length, chunked wins and the connection is not used again (RFC 9112, 6.3).
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise Malformed("sent a transfer coding that was not asked for")
        return Framing(until_close=False, unambiguous=not has_length)
    return Framing(until_close=not has_length and status not in (204, 304), unambiguous=True)
