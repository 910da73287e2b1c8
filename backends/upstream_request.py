"""The bytes of a request head.

Owns what must never reach the wire: a line break inside a header, a second length, a target with
a space. Does not decide which headers a caller may send; that is `router/headers.py`.
"""

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE = bytes(range(0x21, 0x7F))
# The transport writes these itself (or never): two of one kind is how requests are smuggled.
_OWNED = frozenset({b"host", b"content-length", b"connection", b"transfer-encoding", b"expect"})
_ALWAYS_WITH_LENGTH = frozenset({"POST", "PUT", "PATCH"})
# Requests bring the same names again and again: looking them up is a third of checking them. The
# bound is there because callers choose names.
_REMEMBERED_NAMES = 500
_accepted_names: set[bytes] = set()
_METHODS = {name: name.encode() for name in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE")}


def request_head(
    method: str, target: bytes, host: bytes, headers: Headers, body_length: int
) -> bytes:
    """ValueError for anything that would not come out at the other side as it went in."""
    if not is_visible(target):
        raise ValueError("a request target holds visible ASCII characters only")
    names = [name for name, _ in headers]
    if not _accepted_names.issuperset(names):
        _accept(names)
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (_method(method), target, host)]
    lines += map(b": ".join, headers)
    if body_length or method in _ALWAYS_WITH_LENGTH:
        lines.append(b"content-length: %d" % body_length)
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # Counted over the whole head: three passes in C cost less than a look at each value.
    line_ends = len(lines) + 1
    if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\0" in head:
        raise ValueError("a header value holds a line break or a NUL")
    return head


def _accept(names: list[bytes]) -> None:
    if b"".join(names).translate(None, _TOKEN) or b"" in names:
        raise ValueError("a header name holds the characters of an HTTP token only")
    if not _OWNED.isdisjoint([name.lower() for name in names]):
        raise ValueError("host, length, connection and expect headers are the transport's own")
    if len(_accepted_names) < _REMEMBERED_NAMES:
        _accepted_names.update(names)


def is_visible(text: bytes) -> bool:
    return bool(text) and not text.translate(None, _VISIBLE)


def _method(name: str) -> bytes:
    known = _METHODS.get(name)
    if known is not None:
        return known
    method = name.encode("ascii", "replace")
    if not method or method.translate(None, _TOKEN):
        raise ValueError("a method holds the characters of an HTTP token only")
    return method
