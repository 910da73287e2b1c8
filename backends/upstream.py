"""The relay's own HTTP/1.1 client: an origin, its kept-alive connections, one response at a time.

Owns reuse, the one silent repeat on a dead kept-alive connection, and what a caller sees of an
answer. Does not know OpenAI, retries between endpoints, redirects, cookies or decoding: bytes pass
as they came. httpx2 costs 700 us of CPU a request, this 20 (load_tests/upstream_bench.py).
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from msgspec import Struct

from backends.upstream_connection import Connection
from backends.upstream_dial import Peer, default_tls, dial
from backends.upstream_errors import (
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    NoAnswer,
    ResponseCut,
    UpstreamError,
)
from backends.upstream_request import Headers, is_visible, request_head

__all__ = [
    "BadResponse",
    "ConnectFailed",
    "ConnectTimeout",
    "FirstByteTimeout",
    "IdleTimeout",
    "NoAnswer",
    "Origin",
    "Response",
    "ResponseCut",
    "Timeouts",
    "UpstreamError",
]


GREATEST_AGE_S = 300.0  # of a kept connection: one that is never idle would not follow DNS


class Timeouts(Struct, frozen=True):
    """`math.inf` means never. There is no total: a long answer is not a slow one."""

    connect_s: float
    first_byte_s: float  # from the end of sending to the end of the response head
    idle_s: float  # from asking for more of the body to getting it


class Origin:
    """One base URL, its TLS settings and its kept-alive connections."""

    def __init__(
        self, url: str, *, keepalive_s: float = 4.0, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """`keepalive_s` lies below the 5 s after which vLLM and uvicorn close."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) base URL: {url!r}")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("a base URL has no user, query or fragment")
        name = parts.hostname
        host = name if name.isascii() else name.encode("idna").decode("ascii")
        if not is_visible(host.encode()) or not is_visible(parts.path.encode() or b"/"):
            raise ValueError("a base URL holds visible ASCII characters only")
        tls = (ssl_context or default_tls()) if parts.scheme == "https" else None
        default_port = 443 if tls else 80
        self.url = url.rstrip("/")
        self.peer = Peer(host, parts.port or default_port, tls)
        self.target_prefix = parts.path.rstrip("/").encode("ascii")
        self.open_connections = 0
        bracketed = f"[{host}]" if ":" in host else host
        self.host = (bracketed if self.peer.port == default_port else str(self.peer)).encode()
        self._keepalive_s = keepalive_s
        self._idle: dict[Connection, None] = {}  # a stack with removal from the middle

    @classmethod
    def at_socket(cls, path: str) -> "Origin":
        """An HTTP server behind a Unix socket of this machine."""
        origin = cls("http://localhost")
        origin.peer = replace(origin.peer, path=path)
        return origin

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    async def open(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: bytes,
        timeouts: Timeouts,
        host: bytes | None = None,
    ) -> "Response":
        """Send a request and wait for the head of its response; close() what you get.

        `target` is the whole path with its query. Host, length and connection headers are written
        here; ValueError when `headers` brings them, or anything that would break the framing.
        `host` is for a server that must know under which name its caller asked.
        """
        head = request_head(method, target, host or self.host, headers, len(body))
        bodiless = method == "HEAD"
        kept = self._pop_idle()
        if kept is not None:
            answer = kept.send(head, body, bodiless=bodiless, first_byte_s=timeouts.first_byte_s)
            try:
                return await _answered(kept, answer, timeouts.idle_s)
            except NoAnswer:
                if not kept.silent:
                    raise
        fresh = Connection(self, str(self.peer))
        answer = fresh.send(head, body, bodiless=bodiless, first_byte_s=timeouts.first_byte_s)
        try:
            await dial(self.peer, fresh, timeouts.connect_s)
        except BaseException:
            fresh.abort()
            fresh.forget()
            raise
        return await _answered(fresh, answer, timeouts.idle_s)

    def close(self) -> None:
        """Idle connections close now, busy ones when their response ends."""
        self._keepalive_s = 0.0
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    def _pop_idle(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable:
                return connection
            connection.abort()
        return None

    # What a connection tells its owner.

    def joined(self, connection: Connection) -> None:
        self.open_connections += 1

    def left(self, connection: Connection) -> None:
        self.open_connections -= 1
        self._idle.pop(connection, None)

    def keep(self, connection: Connection) -> float:
        if self._keepalive_s <= 0 or connection.age_s > GREATEST_AGE_S:
            return 0.0
        self._idle[connection] = None
        return self._keepalive_s


class Response:
    """The answer to one request. Must be closed; reading to the end alone does not give it back."""

    __slots__ = ("_connection", "_idle_s", "headers", "status")

    def __init__(self, connection: Connection, idle_s: float) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: Connection | None = connection
        self._idle_s = idle_s

    def read_now(self) -> bytes:
        """What has arrived and was not read yet, perhaps nothing; spares a wait by `read`."""
        connection = self._connection
        return connection.take() if connection is not None and connection.chunks else b""

    async def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end. Raises UpstreamError.

        A read that was cancelled lost nothing and may be asked again.
        """
        while True:
            connection = self._connection
            if connection is None:
                raise ResponseCut("the response was closed by its reader")
            if connection.chunks:
                return connection.take()
            if connection.done:
                return b""
            if connection.error is not None:
                raise connection.error
            await connection.arrival(self._idle_s)

    @property
    def ended(self) -> bool:
        """Whether all of it was read."""
        connection = self._connection
        return connection is not None and connection.done and not connection.chunks

    async def pump(self, sink: Callable[[bytes], None]) -> None:
        """Give the rest to `sink`, piece by piece as it arrives. Raises UpstreamError at its end.

        `sink` is called from the socket's callback: it must not wait, and not raise.
        """
        connection = self._connection
        if connection is None:
            raise ResponseCut("the response was closed by its reader")
        if connection.chunks:
            sink(connection.take())
        if not connection.done and connection.error is None:
            try:
                await connection.flow(sink, self._idle_s)
            finally:
                connection.stop_flow()
            if connection.chunks:  # came with the error
                sink(connection.take())
        if connection.error is not None:
            raise connection.error

    def hold(self) -> None:
        """Let nothing more arrive, as far as it can be kept back, until `go_on`."""
        if self._connection is not None:
            self._connection.hold()

    def go_on(self) -> None:
        if self._connection is not None:
            self._connection.go_on()

    def close(self) -> None:
        """Keeps the connection if the response had fully arrived, else drops it at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()


async def _answered(
    connection: Connection, answer: asyncio.Future[None], idle_s: float
) -> Response:
    try:
        await answer
    except asyncio.CancelledError:
        connection.abort()
        raise
    if connection.status:
        return Response(connection, idle_s)
    assert connection.error is not None
    raise connection.error
