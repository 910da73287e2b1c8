"""The head of one request, as it was parsed."""

import re
from urllib.parse import unquote

import httptools

from router.errors import BadRequest
from router.request import Headers

_SIMPLE = re.compile(rb"/[A-Za-z0-9_./~-]*")


class Head:
    """`path` is decoded; `fields` has each header once, the last one where several came.

    BadRequest for a target that cannot be read.
    """

    __slots__ = (
        "fields",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "url",
        "version",
    )

    def __init__(
        self, method: str, url: bytes, headers: Headers, version: str, keep_alive: bool
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.fields = dict(headers)
        self.version = version
        self.keep_alive = keep_alive
        if _SIMPLE.fullmatch(url):
            self.raw_path, self.query = url, b""
            self.path = url.decode("ascii")
        else:
            self._split()

    def _split(self) -> None:
        """A target with a query, an escape, or a whole URL (RFC 9112, 3.2.2)."""
        try:
            parsed = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            raise BadRequest("the target of the request is no URL", code="invalid_http") from None
        self.raw_path, self.query = parsed.path or b"/", parsed.query or b""
        self.path = unquote(self.raw_path.decode("latin-1"))

    @property
    def chunks_understood(self) -> bool:
        """HTTP/1.0 knows no chunked encoding: there the end of the connection ends a body."""
        return self.version != "1.0"

    @property
    def expects_continue(self) -> bool:
        return self.chunks_understood and self.fields.get(b"expect", b"").lower() == b"100-continue"
